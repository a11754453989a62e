//! Zip archives with fixed timestamps, written beside their final place and then renamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::error::SandboxError;

/// A file in the making: it takes its final name only when it is complete.
pub struct Staged {
    path: PathBuf,
    partial: PathBuf,
}

impl Staged {
    /// Opens `<path>.partial`.
    pub fn create(path: &Path) -> Result<(Staged, BufWriter<File>), SandboxError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(SandboxError::storage(&partial))?;
        let staged = Staged { path: path.to_owned(), partial };
        Ok((staged, BufWriter::new(file)))
    }

    /// The final path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes to disk; the file still has its provisional name.
    pub fn complete(&self, mut writer: BufWriter<File>) -> Result<(), SandboxError> {
        writer.flush().and_then(|()| writer.get_ref().sync_all()).map_err(SandboxError::storage(&self.partial))
    }

    /// Gives the file its final name.
    pub fn publish(self) -> Result<(), SandboxError> {
        std::fs::rename(&self.partial, &self.path).map_err(SandboxError::storage(&self.path))
    }
}

/// A zip archive in the making.
pub struct Archive {
    staged: Staged,
    zip: ZipWriter<BufWriter<File>>,
    zip64: bool,
}

impl Archive {
    /// Starts an archive with its top folder. `zip64` forces the 64-bit records that archives of
    /// the real size have.
    pub fn create(path: &Path, top_folder: Option<&str>, zip64: bool) -> Result<Archive, SandboxError> {
        let (staged, writer) = Staged::create(path)?;
        let mut zip = ZipWriter::new(writer);
        if zip64 {
            // An empty extensible data sector: the end record is written, and holds nothing more.
            zip.set_raw_zip64_extensible_data_sector(Box::default());
        }
        let mut archive = Archive { staged, zip, zip64 };
        if let Some(folder) = top_folder {
            let options = archive.options(false);
            archive
                .zip
                .add_directory(folder, options)
                .map_err(|error| SandboxError::zip(path, path.display(), error))?;
        }
        Ok(archive)
    }

    fn options(&self, deflate: bool) -> SimpleFileOptions {
        let method = if deflate { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let noon = DateTime::from_date_and_time(2024, 5, 1, 12, 0, 0).unwrap_or_default();
        SimpleFileOptions::default()
            .compression_method(method)
            .last_modified_time(noon)
            .unix_permissions(0o644)
            .large_file(self.zip64)
    }

    /// Adds a member.
    pub fn put(&mut self, name: &str, bytes: &[u8], deflate: bool) -> Result<(), SandboxError> {
        let options = self.options(deflate);
        let path = self.staged.path();
        self.zip
            .start_file(name, options)
            .map_err(|error| SandboxError::zip(path, format!("{name} of {}", path.display()), error))?;
        self.zip.write_all(bytes).map_err(SandboxError::storage(path))
    }

    /// The writer itself, to copy members as they are.
    pub fn zip(&mut self) -> &mut ZipWriter<BufWriter<File>> {
        &mut self.zip
    }

    /// Writes the directory; the result only needs its final name.
    pub fn complete(self) -> Result<Staged, SandboxError> {
        let path = self.staged.path();
        let writer = self.zip.finish().map_err(|error| SandboxError::zip(path, path.display(), error))?;
        self.staged.complete(writer)?;
        Ok(self.staged)
    }
}
