//! Installs the other servers into `target/bench/`, from npm and PyPI, once.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// How long one package manager may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why something is not there.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or folder cannot be written.
    #[error("cannot write to {path}: {error}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A program is missing.
    #[error("cannot run {program}: {error}")]
    Run {
        /// Which.
        program: String,
        /// Why.
        error: std::io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// Which.
        program: String,
        /// The last that it wrote.
        output: String,
    },
    /// A program did not end.
    #[error("{0} took longer than {PATIENCE:?} and was stopped")]
    Slow(String),
}

/// Installs the npm packages that `list`, a `package.json`, names into `folder`. No script of theirs is run.
pub async fn npm(list: &Path, folder: &Path) -> Result<(), InstallError> {
    unless_done(list, &folder.join("package.json"), async || {
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]);
        run(npm.current_dir(folder)).await
    })
    .await
}

/// Installs the Python packages that `list` names into a virtual environment in `folder`, of the interpreter `python`.
pub async fn pip(python: &Path, list: &Path, folder: &Path) -> Result<(), InstallError> {
    unless_done(list, &folder.join("requirements.txt"), async || {
        run(Command::new(python).args(["-m", "venv", "--clear"]).arg(folder)).await?;
        let mut pip = Command::new(folder.join("bin/python"));
        run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(list))
            .await
    })
    .await
}

/// Runs a program to its end.
pub async fn run(command: &mut Command) -> Result<(), InstallError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let command =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(InstallError::Run { program, error }),
        Err(_) => return Err(InstallError::Slow(program)),
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    Err(InstallError::Failed { program, output: lines[lines.len().saturating_sub(5)..].join("; ") })
}

/// Copies `list` to `copy`, so that the package manager finds it, and installs; not where that was done with the same list.
async fn unless_done(
    list: &Path,
    copy: &Path,
    install: impl AsyncFnOnce() -> Result<(), InstallError>,
) -> Result<(), InstallError> {
    let error = |path: &Path| {
        let path = path.to_owned();
        move |error| InstallError::Write { path, error }
    };
    let wanted = std::fs::read(list).map_err(error(list))?;
    let stamp = copy.with_extension("done");
    if std::fs::read(&stamp).is_ok_and(|done| done == wanted) {
        return Ok(());
    }
    if let Some(folder) = copy.parent() {
        std::fs::create_dir_all(folder).map_err(error(folder))?;
    }
    std::fs::write(copy, &wanted).map_err(error(copy))?;
    install().await?;
    std::fs::write(&stamp, wanted).map_err(error(&stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn installs_once_for_each_list() {
        let folder = tempfile::tempdir().unwrap();
        let (list, copy) = (folder.path().join("list"), folder.path().join("to/list.txt"));
        let mut runs = 0;
        for text in ["a", "a", "b"] {
            std::fs::write(&list, text).unwrap();
            unless_done(&list, &copy, async || {
                runs += 1;
                Ok(())
            })
            .await
            .unwrap();
        }
        assert_eq!(runs, 2);
    }

    #[tokio::test]
    async fn what_failed_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (list, copy) = (folder.path().join("list"), folder.path().join("copy"));
        std::fs::write(&list, "a").unwrap();
        for _ in 0..2 {
            let failed = unless_done(&list, &copy, async || run(&mut Command::new("false")).await).await;
            assert!(matches!(failed, Err(InstallError::Failed { .. })));
        }
    }
}
