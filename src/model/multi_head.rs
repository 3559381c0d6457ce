//! Attention with a linear layer each for queries, keys, values and output: of the rows of a stream to themselves, or to
//! those of another, as a decoder's to what an encoder has made of a text or a picture.

use burn::tensor::Tensor;

use crate::{
    compute::Attention,
    error::Result,
    model::{
        batch::Stack,
        lanes::Lanes,
        load::{LinearShape, Loader},
        projection::Projection,
        streams::StreamId,
    },
};

/// The four layers and what is computed between them.
pub(super) struct MultiHead {
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    how: Attention,
}

/// What the layers are called below the attention, query, key, value and output.
pub(super) type Names = [&'static str; 4];

/// How wide rows are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    /// Those that ask, and that are made.
    pub(super) own: usize,
    /// Those that are asked.
    pub(super) other: usize,
}

impl Widths {
    /// Rows that ask rows of their own kind.
    pub(super) const fn alike(width: usize) -> Self {
        Self {
            own: width,
            other: width,
        }
    }
}

/// The layers as modules `(name, d_out, d_in)`, in the order of the forward pass; `inner` is the width of
/// all heads.
pub(super) fn layers(path: &str, names: Names, widths: Widths, inner: usize) -> [(String, usize, usize); 4] {
    let [query, key, value, output] = names.map(|name| format!("{path}.{name}"));
    [
        (query, inner, widths.own),
        (key, inner, widths.other),
        (value, inner, widths.other),
        (output, widths.own, inner),
    ]
}

impl MultiHead {
    /// Reads the layers below `path`, which in the checkpoint is behind `prefix`.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub(super) async fn read(
        loader: &Loader<'_>,
        (prefix, path): (&str, &str),
        names: Names,
        (widths, bias): (Widths, bool),
        how: Attention,
    ) -> Result<Self> {
        let inner = how.heads * how.head_size;
        let read = async |(name, d_out, d_in): (String, usize, usize)| {
            let key = format!("{prefix}{name}");
            let shape = LinearShape::new(d_out, d_in).biased(bias);
            loader.linear(name, &key, shape).await
        };
        let [query, key, value, output] = layers(path, names, widths, inner);
        Ok(Self {
            query: read(query).await?,
            key: read(key).await?,
            value: read(value).await?,
            output: read(output).await?,
            how,
        })
    }

    /// Self-attention of `x`, the rows of `stream`.
    ///
    /// # Errors
    /// As [`Lanes::group`].
    pub(super) async fn to_itself(
        &self,
        lanes: &Lanes<'_>,
        stack: &Stack<'_>,
        stream: StreamId,
        x: Tensor<2>,
    ) -> Result<Tensor<2>> {
        let projections = [&self.query, &self.key, &self.value];
        let projected = lanes.group(stack, stream, projections, x).await?;
        let context = lanes.attend(stack, stream, &self.query.name, projected, &self.how);
        lanes.linear(stack, stream, &self.output, context).await
    }

    /// Attention of the rows `x` of one stream to those of another, `rows`; `streams` are the two in that order.
    ///
    /// # Errors
    /// As [`Lanes::group`].
    pub(super) async fn to_other(
        &self,
        lanes: &Lanes<'_>,
        stack: &Stack<'_>,
        streams: [StreamId; 2],
        x: Tensor<2>,
        rows: &Tensor<2>,
    ) -> Result<Tensor<2>> {
        let [from, to] = streams;
        let query = lanes.linear(stack, from, &self.query, x).await?;
        let keys_values = async || {
            lanes
                .group(stack, to, [&self.key, &self.value], rows.clone())
                .await
        };
        let name = &self.query.name;
        let context = lanes
            .attend_to(stack, streams, name, query, keys_values, &self.how)
            .await?;
        lanes.linear(stack, from, &self.output, context).await
    }

    pub(super) const fn linears(&self) -> [&Projection; 4] {
        [&self.query, &self.key, &self.value, &self.output]
    }
}
