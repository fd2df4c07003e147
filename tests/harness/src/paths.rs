//! Where things lie in the checkout that this was built from.

use std::path::PathBuf;

/// The top of the checkout.
pub fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    // This crate is tests/harness.
    path.pop();
    path.pop();
    path
}

/// The folder of the example functions' artifacts and input data.
pub fn examples_out() -> PathBuf {
    root().join("target/examples")
}

/// The `hydra` executable: `HYDRA_BINARY` if it is set, else the one that was built like this program.
///
/// # Errors
/// Where the running program's own path cannot be read.
pub fn hydra_binary() -> std::io::Result<PathBuf> {
    if let Some(path) = std::env::var_os("HYDRA_BINARY") {
        return Ok(path.into());
    }
    let mut folder = std::env::current_exe()?;
    folder.pop();
    // Test programs lie in target/PROFILE/deps, the others in target/PROFILE.
    if folder.ends_with("deps") {
        folder.pop();
    }
    Ok(folder.join("hydra"))
}
