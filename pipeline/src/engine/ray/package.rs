//! The package by which a cluster gets a driver: a ZIP archive that is named by what is in it.

use std::io::{Cursor, Write};

use manifests::digest;
use workers::WorkerError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A package with one file, and its name: the same file has the same name.
pub(super) fn pack(run: &str, file: &str, text: &str) -> Result<(String, Vec<u8>), WorkerError> {
    let cannot = |error: &dyn std::fmt::Display| WorkerError::Broken(format!("{file} cannot be packed: {error}"));
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    archive.start_file(file, options).map_err(|error| cannot(&error))?;
    archive.write_all(text.as_bytes()).map_err(|error| cannot(&error))?;
    let bytes = archive.finish().map_err(|error| cannot(&error))?.into_inner();
    Ok((format!("uc-{run}-{}.zip", &digest::of_value(&text)[..16]), bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_package_has_the_file_and_follows_from_it() {
        let (name, bytes) = pack("1a2b3c4d", "uc-1a2b3c4d.py", "print()\n").unwrap();
        assert_eq!(pack("1a2b3c4d", "uc-1a2b3c4d.py", "print()\n").unwrap(), (name.clone(), bytes.clone()));
        assert_ne!(pack("1a2b3c4d", "uc-1a2b3c4d.py", "pass\n").unwrap().0, name);
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut text = String::new();
        archive.by_name("uc-1a2b3c4d.py").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), archive.len()), ("print()\n", 1));
    }
}
