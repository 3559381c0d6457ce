//! Pickles and archives written by hand, so that each test says which byte of them lies.

/// One tensor `w` of two floats in storage `0`, as torch pickles it; `parts` are put in its places.
pub(crate) struct Parts<'a> {
    pub(crate) storage: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) elements: &'a [u8],
    pub(crate) offset: &'a [u8],
    pub(crate) shape: &'a [u8],
    pub(crate) strides: &'a [u8],
    pub(crate) requires_grad: &'a [u8],
    pub(crate) hooks: &'a [u8],
    pub(crate) attributes: &'a [u8],
}

impl Default for Parts<'_> {
    fn default() -> Self {
        Self {
            storage: b"ctorch\nFloatStorage\n",
            key: b"X\x01\x00\x00\x000",
            elements: b"K\x02",
            offset: b"K\x00",
            shape: b"K\x02\x85",
            strides: b"K\x01\x85",
            requires_grad: b"\x89",
            hooks: b"ccollections\nOrderedDict\n)R",
            attributes: b"",
        }
    }
}

impl Parts<'_> {
    /// The tensor alone.
    pub(crate) fn tensor(&self) -> Vec<u8> {
        [
            &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
            &text("storage"),
            self.storage,
            self.key,
            &text("cpu"),
            self.elements,
            b"tQ",
            self.offset,
            self.shape,
            self.strides,
            self.requires_grad,
            self.hooks,
            self.attributes,
            b"tR",
        ]
        .concat()
    }

    /// The whole pickle.
    pub(crate) fn pickle(&self) -> Vec<u8> {
        dictionary(&[("w", &self.tensor())])
    }
}

/// BINUNICODE.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    [b"X", &length[..], text.as_bytes()].concat()
}

/// A pickle of a dictionary.
pub(crate) fn dictionary(items: &[(&str, &[u8])]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    for (name, value) in items {
        pickle.extend(text(name));
        pickle.extend_from_slice(value);
    }
    pickle.extend_from_slice(b"u.");
    pickle
}

/// An entry of an archive, with what its headers may claim.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) local_name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) claimed: u32,
    pub(crate) method: u16,
    pub(crate) local_method: u16,
    pub(crate) flags: u16,
    pub(crate) extra: Vec<u8>,
    pub(crate) local_extra: u16,
}

impl Entry {
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            local_name: name.to_owned(),
            bytes: bytes.to_vec(),
            claimed: u32::try_from(bytes.len()).unwrap(),
            method: 0,
            local_method: 0,
            flags: 0,
            extra: vec![],
            local_extra: 0,
        }
    }
}

/// The entries of a good archive of `pickle` and storage `0`.
pub(crate) fn entries(pickle: &[u8]) -> Vec<Entry> {
    let storage = [1.5_f32, -2.0].map(f32::to_le_bytes).concat();
    vec![
        Entry::new("archive/data.pkl", pickle),
        Entry::new("archive/byteorder", b"little"),
        Entry::new("archive/data/0", &storage),
    ]
}

/// A good archive of `pickle` and storage `0`.
pub(crate) fn archive(pickle: &[u8]) -> Vec<u8> {
    zip(&entries(pickle))
}

/// An archive of entries, which may lie; its own records do not.
pub(crate) fn zip(entries: &[Entry]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for entry in entries {
        let start = u32::try_from(file.len()).unwrap();
        directory.extend(directory_entry(entry, start));
        let name_bytes = u16::try_from(entry.local_name.len()).unwrap();
        file.extend_from_slice(b"PK\x03\x04\x14\x00\x00\x00");
        file.extend_from_slice(&entry.local_method.to_le_bytes());
        file.extend_from_slice(&[0; 8]);
        file.extend_from_slice(&entry.claimed.to_le_bytes());
        file.extend_from_slice(&entry.claimed.to_le_bytes());
        file.extend_from_slice(&name_bytes.to_le_bytes());
        file.extend_from_slice(&entry.local_extra.to_le_bytes());
        file.extend_from_slice(entry.local_name.as_bytes());
        file.extend_from_slice(&entry.bytes);
    }
    close(file, &directory, entries.len())
}

/// A directory's record of an entry whose header begins at `start`.
pub(crate) fn directory_entry(entry: &Entry, start: u32) -> Vec<u8> {
    let name_bytes = u16::try_from(entry.name.len()).unwrap();
    let extra_bytes = u16::try_from(entry.extra.len()).unwrap();
    [
        &b"PK\x01\x02\x14\x00\x14\x00"[..],
        &entry.flags.to_le_bytes(),
        &entry.method.to_le_bytes(),
        &[0; 8],
        &entry.claimed.to_le_bytes(),
        &entry.claimed.to_le_bytes(),
        &name_bytes.to_le_bytes(),
        &extra_bytes.to_le_bytes(),
        &[0; 10],
        &start.to_le_bytes(),
        entry.name.as_bytes(),
        &entry.extra,
    ]
    .concat()
}

/// A file's entries with their directory and the end record.
pub(crate) fn close(mut file: Vec<u8>, directory: &[u8], count: usize) -> Vec<u8> {
    let start = u32::try_from(file.len()).unwrap();
    let count = u16::try_from(count).unwrap().to_le_bytes();
    file.extend_from_slice(directory);
    file.extend_from_slice(b"PK\x05\x06\x00\x00\x00\x00");
    file.extend_from_slice(&count);
    file.extend_from_slice(&count);
    file.extend_from_slice(&u32::try_from(directory.len()).unwrap().to_le_bytes());
    file.extend_from_slice(&start.to_le_bytes());
    file.extend_from_slice(&[0; 2]);
    file
}
