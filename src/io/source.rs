//! Where bytes come from: one trait for a byte range, and the folder of named files a person drops.
//!
//! A browser's `File` can only be read asynchronously, so everything is; a native file and memory answer at once. An
//! implementation returns exactly the bytes asked for, or an error.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::{
    error::{Code, Error, Result},
    progress::Pace,
};

/// How much of a file is in memory at once while it is hashed.
const HASH_CHUNK_BYTES: u64 = 4 << 20;

/// JSON files larger than this are not configuration files.
const JSON_LIMIT_BYTES: u64 = 64 << 20;

/// A file that is read by byte range.
#[async_trait(?Send)]
pub trait ByteSource {
    /// The file's name, relative to the folder it came in, with `/` between its parts.
    fn name(&self) -> &str;

    /// The file's length in bytes.
    fn len(&self) -> u64;

    /// Whether the file holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Exactly the bytes of `range`.
    ///
    /// # Errors
    /// `file_truncated` if the range reaches past the end, `read_failed` if the source itself fails.
    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>>;

    /// Whether the place that the file is in computes its SHA-256, faster than reading it here would.
    fn hashes(&self) -> bool {
        false
    }

    /// The file's SHA-256 in lower-case hexadecimal, where the place that it is in [computes](Self::hashes) it.
    ///
    /// # Errors
    /// As [`ByteSource::read`].
    async fn own_sha256(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// The length of `range` as a buffer size, once it is known to lie inside `source`.
fn checked_len(source: &(impl ByteSource + ?Sized), range: &Range<u64>) -> Result<usize> {
    if range.start > range.end || range.end > source.len() {
        return Err(Error::new(
            Code::FileTruncated,
            format!(
                "Bytes {} to {} were asked of a file of {} bytes; it is cut short, so fetch it again: {}",
                range.start,
                range.end,
                source.len(),
                source.name()
            ),
        ));
    }
    usize::try_from(range.end - range.start).map_err(|_| {
        Error::new(
            Code::ReadFailed,
            format!(
                "A piece of {} bytes does not fit this machine's address space: {}",
                range.end - range.start,
                source.name()
            ),
        )
    })
}

/// A file held in memory.
#[derive(Debug, Clone)]
pub struct MemorySource {
    name: String,
    bytes: Vec<u8>,
}

impl MemorySource {
    /// A file of the given relative name and content.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            bytes,
        }
    }
}

#[async_trait(?Send)]
impl ByteSource for MemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let len = checked_len(self, &range)?;
        let bytes = usize::try_from(range.start)
            .ok()
            .and_then(|start| self.bytes.get(start..start.checked_add(len)?));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| {
            Error::new(
                Code::Internal,
                format!("A checked range lies outside its buffer: {}", self.name),
            )
        })
    }
}

/// A file of the native file system, kept open.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug)]
pub struct FileSource {
    name: String,
    len: u64,
    file: std::fs::File,
}

#[cfg(not(target_arch = "wasm32"))]
impl FileSource {
    /// Opens `path`; messages and reports call it `name`.
    ///
    /// # Errors
    /// `missing` if there is no such file, `read_failed` if it cannot be opened or is not a file.
    pub fn open(path: impl AsRef<std::path::Path>, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let failed = |error: &std::io::Error| {
            let code = match error.kind() {
                std::io::ErrorKind::NotFound => Code::Missing,
                _ => Code::ReadFailed,
            };
            Error::new(code, format!("Cannot open a file ({error}): {name}"))
        };
        let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        if !metadata.is_file() {
            return Err(Error::new(
                Code::ReadFailed,
                format!("Not a regular file: {name}"),
            ));
        }
        Ok(Self {
            len: metadata.len(),
            name,
            file,
        })
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[async_trait(?Send)]
impl ByteSource for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        let mut bytes = vec![0; checked_len(self, &range)?];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(range.start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| {
                let code = match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => Code::FileTruncated,
                    _ => Code::ReadFailed,
                };
                Error::new(code, format!("Cannot read a file ({error}): {}", self.name))
            })?;
        Ok(bytes)
    }
}

/// Name, length and SHA-256 of a file, as a merge report lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDigest {
    /// The file's relative name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// The SHA-256 of a file, read 4 MiB at a time.
///
/// # Errors
/// Whatever reading the file gives, and cancellation.
pub async fn sha256(source: &dyn ByteSource, pace: &Pace<'_>) -> Result<FileDigest> {
    let bytes = source.len();
    let digest = |sha256| FileDigest {
        name: source.name().to_owned(),
        bytes,
        sha256,
    };
    if let Some(sha256) = source.own_sha256().await? {
        pace.breathe().await?;
        return Ok(digest(sha256));
    }
    let mut hash = Sha256::new();
    let mut start = 0;
    while start < bytes {
        let end = bytes.min(start + HASH_CHUNK_BYTES);
        hash.update(source.read(start..end).await?);
        start = end;
        pace.breathe().await?;
    }
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(digest(sha256))
}

/// A file with its name relative to a folder.
type NamedSource = (String, Rc<dyn ByteSource>);

/// The files of one dropped folder, sorted by name.
#[derive(Clone)]
pub struct Folder {
    label: String,
    files: Vec<NamedSource>,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.files.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Folder")
            .field("label", &self.label)
            .field("files", &names)
            .finish()
    }
}

impl Folder {
    /// A folder called `label` in messages. A directory that all files share, such as
    /// `my-adapter/` in `my-adapter/adapter_config.json`, is the folder itself and not a part of it.
    ///
    /// # Errors
    /// `duplicate` if two files have the same relative name.
    pub fn new(label: &str, files: Vec<Rc<dyn ByteSource>>) -> Result<Self> {
        let mut files: Vec<_> = files.into_iter().map(|file| (clean(file.name()), file)).collect();
        files.sort_by(|(left, _), (right, _)| left.cmp(right));
        if let Some(pair) = files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::new(
                Code::Duplicate,
                format!(
                    "The same file was dropped twice into {label}; remove one of the two: {}",
                    pair[0].0
                ),
            ));
        }
        while let Some(shared) = shared_directory(&files) {
            for (name, _) in &mut files {
                name.drain(..shared);
            }
        }
        Ok(Self {
            label: label.to_owned(),
            files,
        })
    }

    /// What messages call this folder.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The files, sorted by name.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Rc<dyn ByteSource>> {
        self.files.iter().map(|(_, file)| file)
    }

    /// The files' names relative to this folder, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }

    /// The file of that name directly in this folder (not in a folder below it).
    pub fn find(&self, file_name: &str) -> Option<Rc<dyn ByteSource>> {
        let at = self
            .files
            .binary_search_by(|(name, _)| name.as_str().cmp(file_name))
            .ok()?;
        self.files.get(at).map(|(_, file)| Rc::clone(file))
    }

    /// The file of that name, or an error that says what to do about its absence.
    ///
    /// # Errors
    /// `missing`, naming the folders below in which such a file lies.
    pub fn require(&self, file_name: &str) -> Result<Rc<dyn ByteSource>> {
        self.find(file_name).ok_or_else(|| {
            let below = format!("/{file_name}");
            let inside: Vec<&str> = self.names().filter(|name| name.ends_with(&below)).collect();
            let hint = if inside.is_empty() {
                String::from("choose the folder that holds it")
            } else {
                format!(
                    "choose one of the folders below that hold it ({})",
                    inside.join(", ")
                )
            };
            Error::new(
                Code::Missing,
                format!("{} has no such file; {hint}: {file_name}", self.label),
            )
        })
    }

    /// The folders directly below this one, sorted by name.
    pub fn below(&self) -> Vec<(String, Self)> {
        let mut folders: BTreeMap<&str, Vec<NamedSource>> = BTreeMap::new();
        for (name, file) in &self.files {
            if let Some((folder, rest)) = name.split_once('/') {
                let files = folders.entry(folder).or_default();
                files.push((rest.to_owned(), Rc::clone(file)));
            }
        }
        let below = folders.into_iter().map(|(name, files)| {
            let label = format!("{}/{name}", self.label);
            (name.to_owned(), Self { label, files })
        });
        below.collect()
    }

    /// The named JSON file, if there is one.
    ///
    /// # Errors
    /// `config_invalid` if it is not JSON of the expected form; whatever reading it gives.
    pub async fn read_json<T: DeserializeOwned>(&self, file_name: &str) -> Result<Option<T>> {
        match self.find(file_name) {
            Some(file) => parse_json(file.as_ref()).await.map(Some),
            None => Ok(None),
        }
    }

    /// Name, length and SHA-256 of every file, sorted by name.
    ///
    /// # Errors
    /// Whatever reading the files gives, and cancellation.
    pub async fn sha256(&self, pace: &Pace<'_>) -> Result<Vec<FileDigest>> {
        let mut digests = Vec::with_capacity(self.files.len());
        for (name, file) in &self.files {
            digests.push(FileDigest {
                name: name.clone(),
                ..sha256(file.as_ref(), pace).await?
            });
        }
        Ok(digests)
    }
}

/// A whole JSON file, parsed.
pub(crate) async fn parse_json<T: DeserializeOwned>(file: &dyn ByteSource) -> Result<T> {
    if file.len() > JSON_LIMIT_BYTES {
        return Err(Error::new(
            Code::ConfigInvalid,
            format!(
                "{} bytes is too large for a JSON configuration file: {}",
                file.len(),
                file.name()
            ),
        ));
    }
    let bytes = file.read(0..file.len()).await?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    serde_json::from_slice(text).map_err(|error| {
        Error::new(
            Code::ConfigInvalid,
            format!("Not the JSON that is expected here ({error}): {}", file.name()),
        )
    })
}

/// A relative name in one form: `/` between parts, no empty or `.` part.
fn clean(name: &str) -> String {
    let parts: Vec<&str> = name
        .split(['/', '\\'])
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    parts.join("/")
}

/// The length, with its slash, of the first directory if every file lies in it.
fn shared_directory(files: &[(String, Rc<dyn ByteSource>)]) -> Option<usize> {
    let first = &files.first()?.0;
    let directory = &first[..=first.find('/')?];
    files
        .iter()
        .all(|(name, _)| name.starts_with(directory))
        .then_some(directory.len())
}
