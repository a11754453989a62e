//! An ext4 file system in a file: what it has written when its power is cut is all that is left.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Outcome;

const BYTES: u64 = 128 << 20;

pub struct Image {
    file: PathBuf,
    mounted_at: PathBuf,
}

impl Image {
    /// A new one, mounted; `None`: this machine mounts no images for us.
    pub fn mount(file: &Path, mounted_at: &Path) -> Result<Option<Image>, String> {
        let made = std::fs::create_dir_all(mounted_at).and_then(|()| std::fs::File::create(file)?.set_len(BYTES));
        made.map_err(|e| format!("{}: {e}", file.display()))?;
        let image = Image { file: file.to_owned(), mounted_at: mounted_at.to_owned() };
        if tell("mkfs.ext4", &["-q".as_ref(), file]).and_then(|()| image.attach()).is_err() {
            // nothing is mounted that could be unmounted
            std::mem::forget(image);
            return Ok(None);
        }
        // a work store is new where nothing is
        std::fs::remove_dir(mounted_at.join("lost+found")).map_err(|e| format!("lost+found: {e}"))?;
        Ok(Some(image))
    }

    fn attach(&self) -> Outcome {
        // by itself it writes nothing while the file is copied
        tell("mount", &["-o".as_ref(), "loop,commit=300".as_ref(), &self.file, &self.mounted_at])
    }

    /// Nobody may be writing. The file, not what the kernel still holds of it, is what comes back.
    pub fn cut_power(&mut self) -> Outcome {
        let left = self.file.with_extension("left");
        std::fs::copy(&self.file, &left).map_err(|e| format!("{}: {e}", left.display()))?;
        tell("umount", &[&self.mounted_at])?;
        std::fs::rename(&left, &self.file).map_err(|e| format!("{}: {e}", left.display()))?;
        self.attach()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = tell("umount", &["--lazy".as_ref(), &self.mounted_at]);
    }
}

fn tell(program: &str, args: &[&Path]) -> Outcome {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
