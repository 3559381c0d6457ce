//! Keys and values of the tokens that a generation has read so far, so that each is computed once.
//!
//! One cache serves one micro-batch of one generation. A family does not see it: its attentions go
//! through [`Compute::attend`], which looks here where there is a cache.

use std::{cell::RefCell, collections::BTreeMap};

use burn::tensor::Tensor;

use crate::compute::{
    Compute, Path,
    attention::{self, Attention, KeyRows, Sequence, Span},
    host_now,
};

/// Keys and values by the name of the attention.
#[derive(Default)]
pub struct Cache {
    entries: RefCell<BTreeMap<String, Entry>>,
}

enum Entry {
    /// One pair a sample, (tokens x key columns).
    Host(Vec<(Vec<f32>, Vec<f32>)>),
    /// All samples' rows in the order they came, and each sample's among them.
    Device {
        key: Tensor<2>,
        value: Tensor<2>,
        rows: Vec<Vec<usize>>,
    },
}

impl Cache {
    /// Whether there are keys and values of that name.
    pub fn has(&self, name: &str) -> bool {
        self.entries.borrow().contains_key(name)
    }

    /// Adds `keys`' attended rows of each sample.
    pub(super) fn append(
        &self,
        path: Path,
        name: &str,
        (key, value): (Tensor<2>, Tensor<2>),
        keys: &[Sequence],
    ) {
        let mut entries = self.entries.borrow_mut();
        match path {
            Path::Kernels => {
                let ((key, columns), (value, _)) = (host_now(key), host_now(value));
                let entry = entries
                    .entry(name.to_owned())
                    .or_insert_with(|| Entry::Host(vec![Default::default(); keys.len()]));
                let Entry::Host(samples) = entry else {
                    unreachable!("entries of one Compute are of one kind")
                };
                for ((k, v), to) in samples.iter_mut().zip(keys) {
                    let rows = to.start * columns..(to.start + to.attended) * columns;
                    k.extend(&key[rows.clone()]);
                    v.extend(&value[rows]);
                }
            }
            Path::Tensors => {
                let new = |offset: usize, to: &Sequence| offset + to.start..offset + to.start + to.attended;
                let entry = match entries.remove(name) {
                    Some(Entry::Device {
                        key: old_key,
                        value: old_value,
                        mut rows,
                    }) => {
                        let offset = old_key.dims()[0];
                        for (rows, to) in rows.iter_mut().zip(keys) {
                            rows.extend(new(offset, to));
                        }
                        Entry::Device {
                            key: Tensor::cat(vec![old_key, key], 0),
                            value: Tensor::cat(vec![old_value, value], 0),
                            rows,
                        }
                    }
                    _ => Entry::Device {
                        key,
                        value,
                        rows: keys.iter().map(|to| new(0, to).collect()).collect(),
                    },
                };
                entries.insert(name.to_owned(), entry);
            }
        }
    }

    /// Attention of `query` to what is kept under `name`; `own` says that the last keys are the queries' own.
    pub(super) fn attend(
        &self,
        compute: &Compute,
        name: &str,
        query: Tensor<2>,
        queries: &[Sequence],
        own: bool,
        how: &Attention,
    ) -> Tensor<2> {
        let entries = self.entries.borrow();
        let first = |keys: usize, from: &Sequence| if own { keys - from.attended } else { 0 };
        match entries.get(name) {
            Some(Entry::Host(samples)) => {
                let (query, columns) = host_now(query);
                let spans: Vec<Span<'_>> = queries
                    .iter()
                    .zip(samples)
                    .map(|(from, (keys, values))| Span {
                        queries: from.start..from.start + from.length,
                        first: first(keys.len() / how.key_columns(), from),
                        keys,
                        values,
                    })
                    .collect();
                let out = attention::on_host(&query, &spans, how);
                compute.tensor(out, query.len() / columns, columns)
            }
            Some(Entry::Device { key, value, rows }) => {
                let key_rows: Vec<KeyRows> = rows
                    .iter()
                    .zip(queries)
                    .map(|(rows, from)| KeyRows {
                        first: first(rows.len(), from),
                        rows: rows.clone(),
                    })
                    .collect();
                compute.attend_on_device(query, (key.clone(), value.clone()), queries, key_rows, how)
            }
            None => unreachable!("attention to keys that were never given"),
        }
    }
}
