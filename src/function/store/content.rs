//! A variant's folder `root`: the code as functions see it.
use super::{
    Limits,
    download::Download,
    form::Form,
    index::Source,
    unpack::{self, UnpackError},
};
use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::BufReader,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

/// Puts the code into the folder `root`, which it makes in `variant`; returns its size in bytes.
pub(super) fn fill(
    variant: &Path,
    download: Download,
    source: &Source,
    limits: &Limits,
) -> Result<u64, UnpackError> {
    let root = variant.join("root");
    let writing = |source| UnpackError::Write { path: root.clone(), source };
    DirBuilder::new().mode(0o755).create(&root).map_err(writing)?;
    let file = File::open(&download.file).map_err(writing)?;
    match source.form {
        Form::Tree => return unpack::unpack(BufReader::new(file), &root, limits),
        Form::Jar => unpack::check(BufReader::new(&file), limits)?,
        _ => {}
    }
    let bytes = file.metadata().map_err(writing)?.len();
    file.set_permissions(Permissions::from_mode(0o444)).map_err(writing)?;
    download.file.persist(root.join(&source.name)).map_err(|error| writing(error.error))?;
    fs::set_permissions(&root, Permissions::from_mode(0o555)).map_err(writing)?;
    Ok(bytes)
}
