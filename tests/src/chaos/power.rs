//! What a disk holds after the power went: of a file what was synced, of a folder the names that were there when it was
//! synced; of everything else nothing, all or any part.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::dice::Dice;
use super::journal::Change;

/// How much of what was not synced is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it: names are as they were, files have no bytes.
    Everything,
    /// Only bytes: file systems that write names first leave files of 0 bytes.
    Bytes,
    /// Each name and each file as chance has it.
    Some,
}

type Id = usize;

#[derive(Debug, Default)]
struct Node {
    /// Where the bytes of a file are; `None`: a folder.
    bytes: Option<PathBuf>,
    /// Bytes were written after the last sync.
    unsynced: bool,
    /// Names of a folder as programs see them.
    names: BTreeMap<String, Id>,
    /// Names that outlive a power cut.
    durable: BTreeMap<String, Id>,
}

/// A change of names that the disk may not have yet.
#[derive(Debug)]
struct Pending {
    /// The folder whose sync makes it durable.
    folder: Id,
    /// What it is, for whoever looks for what was lost.
    what: String,
    changes: Vec<(Id, String, Option<Id>)>,
}

/// A disk that follows a journal.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    keep: PathBuf,
    nodes: Vec<Node>,
    inodes: HashMap<u64, Id>,
    pending: Vec<Pending>,
}

const ROOT: Id = 0;

impl Disk {
    /// A disk that holds what lies below `root`, all of it durable. The bytes of new files are links in `keep`, named by
    /// their inodes; those of old ones are linked there now.
    pub fn new(root: &Path, keep: &Path) -> Result<Disk, String> {
        let mut disk = Disk {
            root: root.to_owned(),
            keep: keep.to_owned(),
            nodes: vec![Node::default()],
            inodes: HashMap::new(),
            pending: Vec::new(),
        };
        if root.exists() {
            disk.take_in(root, ROOT).map_err(|e| format!("{}: {e}", root.display()))?;
        }
        Ok(disk)
    }

    fn take_in(&mut self, folder: &Path, id: Id) -> std::io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        self.inodes.insert(folder.metadata()?.ino(), id);
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let inode = entry.metadata()?.ino();
            let is_folder = entry.file_type()?.is_dir();
            let child = self.add(inode, !is_folder);
            let name = entry.file_name().to_string_lossy().into_owned();
            self.nodes[id].names.insert(name.clone(), child);
            self.nodes[id].durable.insert(name, child);
            if is_folder {
                self.take_in(&entry.path(), child)?;
            } else if !self.keep.join(inode.to_string()).exists() {
                std::fs::hard_link(entry.path(), self.keep.join(inode.to_string()))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, inode: u64, is_file: bool) -> Id {
        let bytes = is_file.then(|| self.keep.join(inode.to_string()));
        self.nodes.push(Node { bytes, ..Node::default() });
        self.inodes.insert(inode, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn below<'p>(&self, path: &'p str) -> &'p str {
        path.strip_prefix(self.root.to_string_lossy().as_ref()).unwrap_or(path)
    }

    /// The folder and the name of a path below the root; `None`: it is the root itself.
    fn place(&self, path: &str) -> Result<Option<(Id, String)>, String> {
        let below = Path::new(path).strip_prefix(&self.root).map_err(|_| format!("{path}: not below the root"))?;
        let Some(name) = below.file_name() else { return Ok(None) };
        let mut folder = ROOT;
        for part in below.parent().into_iter().flat_map(Path::components) {
            let part = part.as_os_str().to_string_lossy();
            let next = self.nodes[folder].names.get(part.as_ref());
            folder = *next.ok_or_else(|| format!("{path}: {part} is unknown"))?;
        }
        Ok(Some((folder, name.to_string_lossy().into_owned())))
    }

    /// Follows one change.
    pub fn follow(&mut self, change: &Change) -> Result<(), String> {
        let known = self.inodes.get(&change.inode).copied();
        match change.call.as_str() {
            "write" | "truncate" => {
                if let Some(id) = known {
                    self.nodes[id].unsynced = true;
                }
            }
            "fsync" => {
                if let Some(id) = known {
                    self.nodes[id].unsynced = false;
                    self.make_durable(|pending| pending.folder == id);
                }
            }
            "sync" => {
                self.nodes.iter_mut().for_each(|node| node.unsynced = false);
                self.make_durable(|_| true);
            }
            _ => self.follow_name(change)?,
        }
        Ok(())
    }

    fn follow_name(&mut self, change: &Change) -> Result<(), String> {
        let Some((folder, name)) = self.place(&change.path)? else {
            self.inodes.insert(change.inode, ROOT);
            return Ok(());
        };
        let old = self.nodes[folder].names.get(&name).copied();
        let missing = || format!("{}: {} of what is not there", change.path, change.call);
        let (synced_by, changes) = match change.call.as_str() {
            // an old file that was opened again
            "create" if old.is_some() => return Ok(()),
            "create" | "mkdir" => {
                let new = self.add(change.inode, change.call == "create");
                (folder, vec![(folder, name, Some(new))])
            }
            "unlink" => (folder, vec![(folder, name, None)]),
            "link" | "rename" => {
                let moved = old.ok_or_else(missing)?;
                let (to, new_name) = self.place(&change.to)?.ok_or_else(missing)?;
                let mut changes = vec![(to, new_name, Some(moved))];
                if change.call == "rename" {
                    changes.insert(0, (folder, name, None));
                }
                (to, changes)
            }
            other => return Err(format!("{other}: an unknown call")),
        };
        for (folder, name, node) in &changes {
            set(&mut self.nodes[*folder].names, name, *node);
        }
        let path = if change.to.is_empty() { &change.path } else { &change.to };
        let what = format!("{} {}", change.call, self.below(path));
        self.pending.push(Pending { folder: synced_by, what, changes });
        Ok(())
    }

    fn make_durable(&mut self, mut now: impl FnMut(&Pending) -> bool) {
        for pending in std::mem::take(&mut self.pending) {
            if !now(&pending) {
                self.pending.push(pending);
                continue;
            }
            for (folder, name, node) in &pending.changes {
                set(&mut self.nodes[*folder].durable, name, *node);
            }
        }
    }

    /// The power goes: writes what is left into a new folder. Says what was lost.
    pub fn cut(mut self, loss: Loss, dice: &mut Dice, to: &Path) -> Result<Vec<String>, String> {
        self.make_durable(|_| match loss {
            Loss::Everything => false,
            Loss::Bytes => true,
            Loss::Some => dice.coin(),
        });
        let mut lost: Vec<String> = self.pending.iter().map(|pending| pending.what.clone()).collect();
        self.write_out(ROOT, to, loss, dice, &mut lost).map_err(|e| format!("{}: {e}", to.display()))?;
        Ok(lost)
    }

    fn write_out(&self, id: Id, to: &Path, loss: Loss, dice: &mut Dice, lost: &mut Vec<String>) -> std::io::Result<()> {
        let node = &self.nodes[id];
        let Some(bytes) = &node.bytes else {
            std::fs::create_dir_all(to)?;
            let mut children = node.durable.iter();
            return children.try_for_each(|(name, &child)| self.write_out(child, &to.join(name), loss, dice, lost));
        };
        std::fs::copy(bytes, to)?;
        if node.unsynced {
            lost.push(format!("bytes of {}", to.display()));
            let length = to.metadata()?.len();
            let left = if loss == Loss::Some && dice.coin() { dice.below(length as usize + 1) as u64 } else { 0 };
            std::fs::OpenOptions::new().write(true).open(to)?.set_len(left)?;
        }
        Ok(())
    }
}

fn set(names: &mut BTreeMap<String, Id>, name: &str, node: Option<Id>) {
    match node {
        Some(node) => names.insert(name.to_owned(), node),
        None => names.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows changes of a store `w` whose files have the bytes "12345678", and lists what is left, with sizes.
    fn left(changes: &[(&str, u64, &str, &str)], loss: Loss) -> Vec<(String, u64)> {
        let folder = tempfile::tempdir().unwrap();
        let (root, keep, to) = (folder.path().join("w"), folder.path().join("keep"), folder.path().join("left"));
        std::fs::create_dir(&keep).unwrap();
        let mut disk = Disk::new(&root, &keep).unwrap();
        let below = |path: &str| if path.is_empty() { String::new() } else { root.join(path).display().to_string() };
        for &(call, inode, path, to) in changes {
            if call == "create" {
                std::fs::write(keep.join(inode.to_string()), "12345678").unwrap();
            }
            disk.follow(&Change { call: call.into(), inode, path: below(path), to: below(to) }).unwrap();
        }
        disk.cut(loss, &mut Dice::new(1, "", 0), &to).unwrap();
        let mut files = Vec::new();
        let mut folders = vec![to.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files
                        .push((path.strip_prefix(&to).unwrap().display().to_string(), path.metadata().unwrap().len())),
                }
            }
        }
        files.sort();
        files
    }

    const WRITTEN: [(&str, u64, &str, &str); 5] = [
        ("mkdir", 2, "a", ""),
        ("create", 3, "a/x#1", ""),
        ("write", 3, "a/x#1", ""),
        ("fsync", 3, "a/x#1", ""),
        ("rename", 3, "a/x#1", "a/x"),
    ];

    #[test]
    fn a_synced_file_under_an_unsynced_name_is_lost() {
        assert_eq!(left(&WRITTEN, Loss::Everything), []);
        assert_eq!(left(&WRITTEN, Loss::Bytes), [("a/x".into(), 8)]);
        // its folder alone does not help while nobody knows the folder
        let folder_synced = [&WRITTEN[..], &[("fsync", 2, "a", "")]].concat();
        assert_eq!(left(&folder_synced, Loss::Everything), []);
    }

    #[test]
    fn what_was_synced_with_its_folders_stays() {
        let all: Vec<_> = [&WRITTEN[..], &[("sync", 0, "", "")]].concat();
        assert_eq!(left(&all, Loss::Everything), [("a/x".into(), 8)]);
        // a replacement that was not synced: the old bytes, or none
        let replaced =
            [&all[..], &[("create", 4, "a/x#1", ""), ("write", 4, "a/x#1", ""), ("rename", 4, "a/x#1", "a/x")]]
                .concat();
        assert_eq!(left(&replaced, Loss::Everything), [("a/x".into(), 8)]);
        assert_eq!(left(&replaced, Loss::Bytes), [("a/x".into(), 0)]);
        // a removal that was not synced
        let removed = [&all[..], &[("unlink", 0, "a/x", "")]].concat();
        assert_eq!(left(&removed, Loss::Everything), [("a/x".into(), 8)]);
        assert_eq!(left(&removed, Loss::Bytes), []);
    }
}
