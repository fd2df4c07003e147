//! The functions that are measured, and what they are asked for.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::peers::Places;
use crate::Failure;
use crate::install;

/// What each server is to do.
pub const WORKS: [&str; 2] = ["hello", "page"];

/// The rows of the page's table.
const ROWS: usize = 20;

/// The arguments of a call, as JSON text: a name for `hello`, 2 KB for `page`.
pub fn arguments(work: &str) -> String {
    if work == "hello" {
        return json!({"name": "Hydra"}).to_string();
    }
    let item = |n: usize| {
        let price = 10.0 + n as f64 / 4.0;
        json!({"name": format!("Article <{n}>"), "price": price, "count": n * 3, "note": format!("\"on stock\" & ready for dispatch {n}")})
    };
    json!({"title": "Order & delivery", "items": (0..ROWS).map(item).collect::<Vec<_>>()}).to_string()
}

/// Says what is wrong with the result of `work`: no server is compared by wrong answers. Hydra's answers hold the result as text.
pub fn check(work: &str, answer: &str) -> Result<(), String> {
    let wrong = || format!("a wrong answer to {work}: {}", answer.chars().take(300).collect::<String>());
    let mut answer: Value = serde_json::from_str(answer).map_err(|_| wrong())?;
    if let Some(result) = answer.get("result").and_then(Value::as_str) {
        answer = serde_json::from_str(result).map_err(|_| wrong())?;
    }
    let right = match work {
        "hello" => answer == json!({"message": "Hello, Hydra!"}),
        _ => {
            use sha2::Digest;
            let html = answer["html"].as_str().unwrap_or_default();
            answer["rows"] == ROWS
                && html.matches("<tr>").count() == ROWS
                && html.contains("<td>Article &lt;3&gt;</td><td>10.75</td><td>9</td>")
                && answer["sha256"] == hex::encode(sha2::Sha256::digest(html))
        }
    };
    if right { Ok(()) } else { Err(wrong()) }
}

/// The file of a language's functions below the code server, and the entry point of `work` in it.
pub fn code(language: &str, work: &str) -> (&'static str, String) {
    match language {
        "python" => ("work.py", format!("work.{work}")),
        "javascript" => ("work.js", format!("work.{work}")),
        _ => ("work.jar", work[..1].to_uppercase() + &work[1..]),
    }
}

/// Puts the functions' files into the folder for the code server, and returns it. Java is left out where there is no JDK.
///
/// # Errors
/// Where a file cannot be written.
pub async fn provide(places: &Places) -> Result<PathBuf, Failure> {
    let folder = places.built.join("functions");
    std::fs::create_dir_all(&folder)?;
    for file in ["python/work.py", "javascript/work.js"] {
        let source = places.sources.join(file);
        std::fs::copy(&source, folder.join(source.file_name().unwrap_or_default()))?;
    }
    let mut build = tokio::process::Command::new(places.sources.join("java/build.sh"));
    if let Err(error) = install::run(build.arg(&folder)).await {
        eprintln!("hydra bench: java is left out: {error}");
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_arguments_are_2_kb() {
        assert!((1900..2200).contains(&arguments("page").len()), "{}", arguments("page").len());
    }

    #[test]
    fn wrong_answers_are_told() {
        check("hello", r#"{"message":"Hello, Hydra!"}"#).unwrap();
        check("hello", r#"{"result":"{\"message\": \"Hello, Hydra!\"}","process time (us)":5}"#).unwrap();
        assert!(check("hello", r#"{"message":"Hello, world!"}"#).is_err());
        assert!(check("page", r#"{"rows":20,"html":"","sha256":""}"#).is_err());
        assert!(check("page", "").is_err());
    }
}
