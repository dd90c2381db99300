//! Trainable weights in one flat buffer per dtype, so that an update is a few operations however
//! many weights there are.

use mlx_graft::{Array, Dtype, ops};

use crate::Result;
use crate::nn::{Param, Swapped};

/// Which weights lie in which buffer, and where.
#[derive(Debug, Clone)]
pub struct Layout {
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Group {
    dtype: Dtype,
    params: Vec<Param>,
    shapes: Vec<Vec<i32>>,
}

impl Layout {
    /// The layout of the given weights, one group per dtype.
    pub fn new(params: &[Param]) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for param in params {
            let value = param.get();
            let dtype = value.dtype();
            let at = groups.iter().position(|group| group.dtype == dtype).unwrap_or_else(|| {
                groups.push(Group { dtype, params: Vec::new(), shapes: Vec::new() });
                groups.len() - 1
            });
            groups[at].params.push(param.clone());
            groups[at].shapes.push(value.shape().to_vec());
        }
        Self { groups }
    }

    /// The number of buffers.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// The weights behind each other, one buffer per dtype.
    pub fn gather(&self) -> Result<Vec<Array>> {
        let values: Vec<Array> = self.params().map(Param::get).collect();
        self.join(&values)
    }

    /// Arrays of the weights' shapes, in the order of the groups, behind each other in buffers.
    pub fn join(&self, values: &[Array]) -> Result<Vec<Array>> {
        let mut rest = values;
        self.groups
            .iter()
            .map(|group| {
                let (values, others) = rest.split_at(group.params.len());
                rest = others;
                let flat: Vec<Array> = values
                    .iter()
                    .map(|value| ops::reshape(value, &[-1]))
                    .collect::<mlx_graft::Result<_>>()?;
                Ok(ops::concatenate_axis(&flat, 0)?)
            })
            .collect()
    }

    /// The weights as views of the buffers, in the order of the groups.
    pub fn views(&self, buffers: &[Array]) -> Result<Vec<Array>> {
        let mut out = Vec::new();
        for (group, buffer) in self.groups.iter().zip(buffers) {
            let mut end = 0;
            let ends: Vec<i32> = group
                .shapes
                .iter()
                .map(|shape| {
                    end += shape.iter().product::<i32>();
                    end
                })
                .collect();
            let parts = ops::split_sections(buffer, &ends[..ends.len() - 1], 0)?;
            for (part, shape) in parts.iter().zip(&group.shapes) {
                out.push(ops::reshape(part, shape)?);
            }
        }
        Ok(out)
    }

    fn params(&self) -> impl Iterator<Item = &Param> {
        self.groups.iter().flat_map(|group| &group.params)
    }

    /// Gives the model these values of its weights, until the result is dropped.
    pub fn swap(&self, values: &[Array]) -> Swapped {
        Swapped::new(self.params(), values)
    }

    /// Gives the model views of the buffers, and returns them with their weights.
    pub fn scatter(&self, buffers: &[Array]) -> Result<Vec<(Param, Array)>> {
        let pairs = self.params().cloned().zip(self.views(buffers)?);
        Ok(pairs.inspect(|(param, view)| drop(param.set(view.clone()))).collect())
    }
}
