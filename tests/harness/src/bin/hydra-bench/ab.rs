//! `ab`, as the clients of the original system call it: HTTP/1.0, a new connection for each request.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::Failure;
use crate::load::Target;

/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests per second that `ab` reports for `requests` on 8 connections.
pub async fn requests_per_second(target: &Target, requests: u32) -> Result<f64, Failure> {
    let body = tempfile::NamedTempFile::new()?;
    std::fs::write(body.path(), &target.body)?;
    let mut ab = Command::new("ab");
    ab.args(["-q", "-l", "-s", "10", "-c", "8", "-T", "application/json", "-n", &requests.to_string(), "-p"]);
    ab.arg(body.path()).arg(format!("http://{}{}", target.address, target.path));
    ab.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, ab.output()).await.map_err(|_| "ab took too long")??;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    Ok(read(&String::from_utf8_lossy(&output.stdout))?)
}

fn read(report: &str) -> Result<f64, String> {
    let number = |label: &str| {
        let line = report.lines().find_map(|line| line.trim().strip_prefix(label))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    for label in ["Failed requests:", "Non-2xx responses:"] {
        if let Some(count) = number(label).filter(|count| *count > 0.0) {
            return Err(format!("ab counted {label} {count}"));
        }
    }
    number("Requests per second:").ok_or_else(|| "ab's report has no requests per second".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = "Complete requests:      200\nFailed requests:        0\nRequests per second:    5121.77 [#/sec] (mean)\n";
        assert_eq!(read(report), Ok(5121.77));
        assert!(read(&report.replace("requests:        0", "requests:        3")).unwrap_err().contains('3'));
        assert!(read(&format!("{report}Non-2xx responses:      200\n")).is_err());
        assert!(read("").is_err());
    }
}
