//! Files of `torch.save`: archives of a pickle and one member of raw bytes per storage.

use super::entry::{Entry, Place, Source, is_contiguous};
use super::state_dict::{self, Described, RULES};
use crate::{ModelError, Result};
use pickle::Pickle;
use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use zip::read::ZipFile;
use zip::{CompressionMethod, ZipArchive};

/// Beginning of an archive.
const ARCHIVE: &[u8] = b"PK\x03\x04";

/// Endings of files that PyTorch writes.
const ENDINGS: [&str; 3] = ["pt", "pth", "bin"];

/// Whether PyTorch wrote it: an archive, or what is called like one.
pub(super) fn is_torch(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(ModelError::io(path))?;
    file.take(ARCHIVE.len() as u64).read_to_end(&mut head).map_err(ModelError::io(path))?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    Ok(head == ARCHIVE || ENDINGS.contains(&ending))
}

/// What the state dictionary of a file holds; of the tensors only their places are read.
pub(super) fn entries(path: &Path) -> Result<Vec<Entry>> {
    let malformed = |reason: String| ModelError::malformed(path, reason);
    let mut archive = Archive::open(path)?;
    let bytes = archive.member("data.pkl", RULES.max_bytes as u64)?;
    let pickle = Pickle::read(&bytes, &RULES).map_err(|error| malformed(error.to_string()))?;
    let mut storages = HashMap::new();
    let mut entries = Vec::new();
    for (name, tensor) in state_dict::tensors(&pickle).map_err(malformed)? {
        let storage = match storages.entry(tensor.storage) {
            Occupied(known) => *known.get(),
            Vacant(new) => *new.insert(archive.storage(tensor.storage)?),
        };
        entries.push(archive.entry(name.to_owned(), tensor, storage)?);
    }
    Ok(entries)
}

/// Bytes of the file.
#[derive(Clone, Copy)]
struct Storage {
    start: u64,
    bytes: u64,
    crc32: u32,
}

struct Archive {
    path: Arc<Path>,
    zip: ZipArchive<BufReader<File>>,
    /// Folder of all members.
    prefix: String,
}

impl Archive {
    fn open(path: &Path) -> Result<Self> {
        let malformed = |reason: String| ModelError::malformed(path, reason);
        let file = BufReader::new(File::open(path).map_err(ModelError::io(path))?);
        let zip = ZipArchive::new(file).map_err(|error| {
            malformed(format!(
                "no archive of torch.save, or one that is cut off ({error}); files from before PyTorch 1.6 must be saved \
                 anew"
            ))
        })?;
        let prefix = |name: &str| name.strip_suffix("data.pkl").map(str::to_owned);
        let pickles: Vec<String> = zip.file_names().filter_map(|name| prefix(&name.ok()?)).collect();
        let [prefix] = pickles.as_slice() else {
            return Err(malformed(format!("{} members data.pkl, one is wanted", pickles.len())));
        };
        if zip.index_for_name(&format!("{prefix}constants.pkl")).is_some() {
            let reason = "an archive of TorchScript, which holds code: load it in Python and save its state_dict()";
            return Err(malformed(reason.to_owned()));
        }
        let prefix = prefix.clone();
        let mut archive = Self { path: path.into(), zip, prefix };
        if archive.zip.index_for_name(&format!("{}byteorder", archive.prefix)).is_some()
            && archive.member("byteorder", 16)? != b"little"
        {
            return Err(malformed("the numbers are not little-endian".to_owned()));
        }
        Ok(archive)
    }

    /// The bytes of a small member.
    fn member(&mut self, name: &str, most: u64) -> Result<Vec<u8>> {
        self.stored(name, |member, _| {
            let size = member.size();
            if size > most {
                return Err(format!("it has {size} bytes, at most {most} are read"));
            }
            let mut bytes = Vec::new();
            member.take(size).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            if bytes.len() as u64 == size { Ok(bytes) } else { Err(format!("it ends after {} bytes", bytes.len())) }
        })
    }

    /// Where the member of a storage lies.
    fn storage(&mut self, name: &str) -> Result<Storage> {
        self.stored(&format!("data/{name}"), |member, length| {
            let (bytes, start) = (member.size(), member.data_start());
            let within = |start: &u64| start.checked_add(bytes).is_some_and(|end| end <= length);
            let start = start.filter(within);
            let start = start.ok_or_else(|| format!("its {bytes} bytes do not lie within the file's {length}"))?;
            Ok(Storage { start, bytes, crc32: member.crc32() })
        })
    }

    /// Looks at a member, beside the file's length. Members are stored as they are, so that none is larger than the file.
    fn stored<T>(
        &mut self,
        name: &str,
        look: impl FnOnce(ZipFile<'_, BufReader<File>>, u64) -> Result<T, String>,
    ) -> Result<T> {
        let name = format!("{}{name}", self.prefix);
        let malformed = |reason: String| ModelError::malformed(&self.path, format!("member {name}: {reason}"));
        let length = std::fs::metadata(&self.path).map_err(ModelError::io(&self.path))?.len();
        let member = self.zip.by_name(&name).map_err(|error| malformed(error.to_string()))?;
        match member.compression() {
            CompressionMethod::Stored => look(member, length).map_err(malformed),
            _ => Err(malformed("it is compressed, which torch.save never does".to_owned())),
        }
    }

    fn entry(&self, name: String, tensor: Described<'_>, storage: Storage) -> Result<Entry> {
        let size = tensor.dtype.size_in_bytes();
        let wanted = (tensor.storage_elements as u64).checked_mul(size as u64);
        if wanted != Some(storage.bytes) {
            let reason = format!(
                "the storage of tensor {name} has {} bytes, {} elements of {size} are wanted",
                storage.bytes, tensor.storage_elements
            );
            return Err(ModelError::malformed(&self.path, reason));
        }
        let is_contiguous = is_contiguous(&tensor.shape, &tensor.strides);
        let is_whole = is_contiguous && tensor.shape.iter().product::<usize>() == tensor.storage_elements;
        let place = Place {
            file: Arc::clone(&self.path),
            offset: storage.start + (tensor.offset * size) as u64,
            strides: (!is_contiguous).then_some(tensor.strides),
            crc32: is_whole.then_some(storage.crc32),
        };
        Ok(Entry { name, dtype: tensor.dtype, shape: tensor.shape, source: Source::File(place) })
    }
}
