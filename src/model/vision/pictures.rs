//! From the pixels of a picture to the rows of a tower: patches, a class token before them where there is one, and what
//! is added for positions.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;

use crate::{
    compute::{Grid, LayerNorm, Windows, narrow},
    error::{Code, Error, Result},
    model::{
        batch::{Batch, Stack},
        config::{invalid, positive},
        family::{Block, Module, PictureFacts},
        lanes::Lanes,
        load::Loader,
        projection::Projection,
        state::State,
        streams::{Stream, StreamId, StreamRows},
        vision::tower::Tower,
    },
};

/// One number, or one a side; height first.
#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
pub(in crate::model) enum Sides {
    Both(usize),
    Each([usize; 2]),
}

impl Sides {
    const fn each(self) -> [usize; 2] {
        match self {
            Self::Both(side) => [side; 2],
            Self::Each(sides) => sides,
        }
    }
}

/// What a family calls the parts, behind the tower's path.
pub(in crate::model) struct Names {
    /// The convolution that makes a row of every patch.
    pub(in crate::model) patches: &'static str,
    /// Whether that has a bias.
    pub(in crate::model) patch_bias: bool,
    /// The row before the patches.
    pub(in crate::model) class_token: Option<&'static str>,
    /// The table of positions, (rows x hidden).
    pub(in crate::model) positions: &'static str,
    /// The layer normalisation behind the sum.
    pub(in crate::model) norm: Option<&'static str>,
}

/// The pictures that a tower reads.
pub(in crate::model) struct Pictures {
    pub(in crate::model) names: &'static Names,
    pub(in crate::model) channels: usize,
    /// The size of the configuration, in pixels.
    pub(in crate::model) grid: Grid,
    pub(in crate::model) windows: Windows,
    /// Whether pictures may have another size, positions being interpolated.
    pub(in crate::model) any_size: bool,
    /// The picture, a row a pixel: a stream of inputs.
    pub(in crate::model) pixels: StreamId,
    /// A row a patch.
    pub(in crate::model) patches: StreamId,
}

impl Pictures {
    /// Pictures of a configuration's `image_size` and `patch_size`, read from the stream `pixels`; `patches` is the stream
    /// of their patches.
    ///
    /// # Errors
    /// `config_invalid` for sizes that have no patch.
    pub(in crate::model) fn new(
        names: &'static Names,
        channels: usize,
        [image_size, patch_size]: [Sides; 2],
        [pixels, patches]: [StreamId; 2],
    ) -> Result<Self> {
        let ([height, width], kernel) = (image_size.each(), patch_size.each());
        let [patch_height, patch_width] = kernel;
        positive(&[
            ("the number of channels", channels),
            ("a side of a patch", patch_height.min(patch_width)),
        ])?;
        if height < patch_height || width < patch_width {
            return Err(invalid(&format!(
                "a picture of {width} x {height} has no patch of {patch_width} x {patch_height}"
            )));
        }
        Ok(Self {
            names,
            channels,
            grid: Grid { height, width },
            windows: Windows {
                kernel,
                stride: kernel,
                padding: [0, 0],
            },
            any_size: false,
            pixels,
            patches,
        })
    }

    /// The stream of the patches.
    pub(in crate::model) const fn patch_stream(&self) -> Stream {
        Stream {
            name: "patches",
            rows: StreamRows::Windows(self.pixels, self.windows),
        }
    }

    /// The stream of the tower's rows.
    pub(in crate::model) fn image_stream(&self) -> Stream {
        Stream {
            name: "image",
            rows: StreamRows::Behind(self.tokens(), self.patches),
        }
    }

    /// Rows before the patches.
    pub(in crate::model) fn tokens(&self) -> usize {
        usize::from(self.names.class_token.is_some())
    }

    pub(in crate::model) const fn facts(&self) -> PictureFacts {
        PictureFacts {
            channels: self.channels,
            height: self.grid.height,
            width: self.grid.width,
        }
    }

    /// Rows of the table of positions.
    fn positions(&self) -> usize {
        self.tokens() + self.windows.over(self.grid).map_or(0, Grid::places)
    }

    /// The convolution, which adapters may target.
    pub(in crate::model) fn module(&self, tower: &Tower, block: usize) -> Module {
        let d_in = self.channels * self.windows.places();
        Module {
            windows: Some(self.windows),
            ..tower.module(self.names.patches, [tower.sizes.hidden, d_in], block)
        }
    }

    /// The pixels of a batch, (pixels x channels).
    ///
    /// # Errors
    /// [`Code::SamplesInvalid`] for pictures of another size or number of channels.
    pub(in crate::model) fn embed(&self, loader: &Loader<'_>, batch: &Batch) -> Result<Tensor<2>> {
        let pixels = batch.stream(self.pixels);
        let other = pixels.grids.iter().find(|grid| match grid {
            Some(grid) => !self.reads(*grid),
            None => true,
        });
        if let Some(found) = other {
            let found = found.map_or("no picture".into(), |grid| {
                format!("{} x {}", grid.width, grid.height)
            });
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "a sample is {found}, the model reads pictures of {} x {}; preprocessor_config.json and config.json are of different models",
                    self.grid.width, self.grid.height
                ),
            ));
        }
        if pixels.numbers.len() != pixels.rows * self.channels {
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "the samples have {} numbers a pixel, the model reads {} channels",
                    pixels.numbers.len() / pixels.rows.max(1),
                    self.channels
                ),
            ));
        }
        Ok(loader
            .compute
            .tensor(pixels.numbers.clone(), pixels.rows, self.channels))
    }

    /// Whether there are positions for a picture of that size.
    fn reads(&self, grid: Grid) -> bool {
        let patches = self.positions() - self.tokens();
        let square = patches.isqrt() * patches.isqrt() == patches;
        self.fits_table(grid) || self.any_size && square
    }

    /// Whether the table has the positions of a picture of that size as they are. Where sizes are free, transformers asks
    /// for a square and as many patches, and takes the table for that of a square otherwise.
    fn fits_table(&self, grid: Grid) -> bool {
        let patches = self.windows.over(grid).map_or(0, Grid::places);
        if self.any_size {
            grid.height == grid.width && patches + self.tokens() == self.positions()
        } else {
            grid == self.grid
        }
    }

    /// Reads the block.
    ///
    /// # Errors
    /// As [`Loader::parameter`].
    pub(in crate::model) async fn load(
        self: &Rc<Self>,
        loader: &Loader<'_>,
        tower: &Tower,
    ) -> Result<Rc<dyn Block>> {
        let Names {
            patches,
            patch_bias,
            class_token,
            positions,
            norm,
        } = *self.names;
        let hidden = tower.sizes.hidden;
        Ok(Rc::new(Embeddings {
            pictures: Rc::clone(self),
            image: tower.stream,
            hidden,
            convolution: loader
                .convolution(
                    tower.name(patches),
                    &tower.key(patches),
                    [hidden, self.channels],
                    self.windows,
                    patch_bias,
                )
                .await?,
            class_token: match class_token {
                Some(name) => loader.table(&tower.key(name), &[hidden]).await?,
                None => Vec::new(),
            },
            positions: loader
                .table(&tower.key(positions), &[self.positions(), hidden])
                .await?,
            norm: match norm {
                Some(name) => Some(tower.norm(loader, name).await?),
                None => None,
            },
        }))
    }
}

/// The block.
struct Embeddings {
    pictures: Rc<Pictures>,
    image: StreamId,
    hidden: usize,
    convolution: Projection,
    /// Empty without one.
    class_token: Vec<f32>,
    /// (rows x hidden)
    positions: Vec<f32>,
    norm: Option<LayerNorm>,
}

impl Embeddings {
    /// What is added to the rows of a picture of that size, (rows x hidden).
    fn positions_of(&self, grid: Grid) -> Vec<f32> {
        let pictures = &self.pictures;
        let Some(to) = pictures.windows.over(grid).filter(|_| !pictures.fits_table(grid)) else {
            return self.positions.clone();
        };
        let (tokens, patches) = self.positions.split_at(pictures.tokens() * self.hidden);
        let side = (patches.len() / self.hidden).isqrt();
        let from = Grid {
            height: side,
            width: side,
        };
        [tokens, &bicubic(patches, from, to)].concat()
    }

    /// The rows of pictures of one size, from the rows of their patches.
    fn rows_of(&self, lanes: &Lanes<'_>, patches: Tensor<2>, grid: Grid) -> Tensor<2> {
        let (compute, hidden) = (lanes.compute(), self.hidden);
        let positions = self.positions_of(grid);
        let (rows, tokens) = (positions.len() / hidden, self.pictures.tokens());
        let count = patches.dims()[0] / (rows - tokens);
        let mut image = patches.reshape([count, rows - tokens, hidden]);
        if tokens > 0 {
            let token = compute.tensor(self.class_token.clone(), tokens, hidden);
            let token = token.reshape([1, tokens, hidden]).repeat_dim(0, count);
            image = Tensor::<3>::cat(vec![token, image], 1);
        }
        let positions = compute.tensor(positions, rows, hidden).reshape([1, rows, hidden]);
        (image + positions).reshape([count * rows, hidden])
    }
}

#[async_trait(?Send)]
impl Block for Embeddings {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let Pictures {
            pixels: from,
            patches: to,
            ..
        } = *self.pictures;
        if !state.has(from) {
            return Ok(state);
        }
        let pixels = state.take(from)?;
        let patches = lanes
            .convolve(stack, [from, to], &self.convolution, pixels)
            .await?;
        // Runs of pictures of one size, which mostly all are.
        let mut runs: Vec<(Grid, std::ops::Range<usize>)> = Vec::new();
        for ((_, grid), sequence) in stack.grids(from).into_iter().zip(stack.sequences(to)) {
            let end = sequence.start + sequence.length;
            match runs.last_mut() {
                Some((last, rows)) if *last == grid => rows.end = end,
                _ => runs.push((grid, sequence.start..end)),
            }
        }
        let rows = runs.into_iter().map(|(grid, rows)| {
            let patches = patches.clone().slice([rows]);
            self.rows_of(lanes, patches, grid)
        });
        let mut image = Tensor::cat(rows.collect(), 0);
        if let Some(norm) = &self.norm {
            image = lanes.compute().layer_norm(image, norm);
        }
        Ok(state.with(self.image, image))
    }

    fn linears(&self) -> Vec<&Projection> {
        vec![&self.convolution]
    }
}

/// `x` (places of `from` x width) at the places of `to`: PyTorch's `interpolate` with `mode="bicubic"`,
/// `align_corners=False` and no antialiasing, which convolves with Keys' kernel (1981) for a = -0.75.
fn bicubic(x: &[f32], from: Grid, to: Grid) -> Vec<f32> {
    let width = x.len() / from.places();
    let down = weights(from.height, to.height);
    let right = weights(from.width, to.width);
    let mut out = Vec::with_capacity(to.places() * width);
    let mut sum = vec![0.0f64; width];
    for (rows, columns) in down
        .iter()
        .flat_map(|rows| right.iter().map(move |columns| (rows, columns)))
    {
        sum.fill(0.0);
        for (&(y, wy), &(x_at, wx)) in rows
            .iter()
            .flat_map(|row| columns.iter().map(move |column| (row, column)))
        {
            let at = (y * from.width + x_at) * width;
            let place = &x[at..at + width];
            sum.iter_mut()
                .zip(place)
                .for_each(|(sum, &x)| *sum += wy * wx * f64::from(x));
        }
        out.extend(sum.iter().map(|&x| narrow(x)));
    }
    out
}

/// The four places of `from` that each place of `to` is made of, and their weights; beyond an edge is the edge.
fn weights(from: usize, to: usize) -> Vec<[(usize, f64); 4]> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|place| {
            let at = scale * (place as f64 + 0.5) - 0.5;
            let first = at.floor();
            let t = at - first;
            let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            let mut offset = -1.0;
            weights.map(|weight| {
                let place = (first + offset).clamp(0.0, (from - 1) as f64);
                offset += 1.0;
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a whole number between 0 and a length"
                )]
                (place as usize, weight)
            })
        })
        .collect()
}
