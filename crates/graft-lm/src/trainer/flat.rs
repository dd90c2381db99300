//! Trainable weights in few flat buffers, so that an update is a few operations however many
//! weights there are: one per dtype, or more where one could not hold all.

use std::cell::OnceCell;
use std::rc::Rc;

use mlx_graft::{Array, Dtype, ops};

use crate::Result;
use crate::nn::{Param, Source, Swapped};

/// A weight and its name.
pub type NamedParam = (String, Param);

/// Which weights lie in which buffer, and where.
#[derive(Debug, Clone)]
pub struct Layout {
    /// In the order of the groups.
    params: Vec<Param>,
    /// Their names.
    names: Rc<[String]>,
    groups: Rc<[Group]>,
}

/// The weights of a buffer, which have one dtype.
#[derive(Debug)]
struct Group {
    dtype: Dtype,
    shapes: Vec<Vec<i32>>,
    size: usize,
}

/// How many elements a buffer has at most: the lengths of MLX's arrays are of 32 bits.
const MOST: usize = i32::MAX as usize;

impl Layout {
    /// The layout of the given weights.
    pub fn new(params: &[NamedParam]) -> Self {
        let values: Vec<Array> = params.iter().map(|(_, param)| param.get()).collect();
        Self::of_values(params, &values)
    }

    /// The layout of the given weights when they have these values.
    pub fn of_values(params: &[NamedParam], values: &[Array]) -> Self {
        Self::with_most(params, values, MOST)
    }

    /// The layout with at most `most` elements in a buffer, unless a single weight has more.
    fn with_most(params: &[NamedParam], values: &[Array], most: usize) -> Self {
        let mut groups: Vec<(Group, Vec<NamedParam>)> = Vec::new();
        for ((name, param), value) in params.iter().zip(values) {
            let (dtype, size) = (value.dtype(), value.size());
            let fits = |group: &Group| group.dtype == dtype && group.size + size <= most;
            let at = groups.iter().position(|(group, _)| fits(group));
            let at = at.unwrap_or_else(|| {
                groups.push((Group { dtype, shapes: Vec::new(), size: 0 }, Vec::new()));
                groups.len() - 1
            });
            groups[at].0.shapes.push(value.shape().to_vec());
            groups[at].0.size += size;
            groups[at].1.push((name.clone(), param.clone()));
        }
        let (groups, params): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let (names, params): (Vec<_>, Vec<_>) = params.into_iter().flatten().unzip();
        Self { params, names: names.into(), groups: groups.into() }
    }

    /// The weights with their names, in the order of the groups.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.names.iter().map(String::as_str).zip(&self.params)
    }

    /// The number of buffers.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// The weights behind each other, one array per buffer.
    pub fn gather(&self) -> Result<Vec<Array>> {
        let values: Vec<Array> = self.params.iter().map(Param::get).collect();
        self.join(&values)
    }

    /// Arrays of the weights' shapes, in the order of the groups, behind each other in buffers.
    pub fn join(&self, values: &[Array]) -> Result<Vec<Array>> {
        let mut rest = values;
        self.groups
            .iter()
            .map(|group| {
                let (values, others) = rest.split_at(group.shapes.len());
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
        views(&self.groups, buffers)
    }

    /// Gives the model these values of its weights, until the result is dropped.
    pub fn swap(&self, values: &[Array]) -> Swapped {
        Swapped::new(&self.params, values)
    }

    /// Gives the model views of the buffers, which are made when it asks for one: a step needs none.
    pub fn scatter(&self, buffers: Vec<Array>) -> Rc<dyn Source> {
        let groups = Rc::clone(&self.groups);
        let views: Rc<dyn Source> = Rc::new(Views { groups, buffers, made: OnceCell::new() });
        for (i, param) in self.params.iter().enumerate() {
            param.set_from(Rc::clone(&views), i);
        }
        views
    }

    /// Whether all weights are those that [`scatter`](Self::scatter) gave to the model.
    pub fn are_from(&self, views: &Rc<dyn Source>) -> bool {
        self.params.iter().all(|param| param.is_from(views))
    }
}

/// The weights of groups as views of their buffers, in the order of the groups.
fn views(groups: &[Group], buffers: &[Array]) -> Result<Vec<Array>> {
    let mut out = Vec::new();
    for (group, buffer) in groups.iter().zip(buffers) {
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

/// Views of buffers. They do not know the weights, which hold them.
struct Views {
    groups: Rc<[Group]>,
    buffers: Vec<Array>,
    made: OnceCell<Vec<Array>>,
}

impl Source for Views {
    fn value(&self, index: usize) -> Array {
        // A buffer has as many elements as the weights that were joined to it.
        let make = || views(&self.groups, &self.buffers).expect("views of a buffer");
        self.made.get_or_init(make)[index].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(params: &[Param]) -> Vec<NamedParam> {
        params.iter().enumerate().map(|(i, param)| (i.to_string(), param.clone())).collect()
    }

    #[test]
    fn weights_are_views_until_they_are_replaced() -> Result<()> {
        let arrays = [
            Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?,
            Array::from_slice(&[7_i32, 8], &[2])?,
            Array::from_slice(&[9.0_f32], &[1])?,
        ];
        let params = arrays.clone().map(Param::trainable);
        let layout = Layout::new(&named(&params));
        let buffers = layout.gather()?;
        assert_eq!(buffers[0].to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0]);
        assert_eq!(buffers[1].to_vec::<i32>()?, [7, 8]);

        let doubled = buffers.iter().map(|buffer| ops::add(buffer, buffer));
        let views = layout.scatter(doubled.collect::<mlx_graft::Result<_>>()?);
        assert!(layout.are_from(&views));
        assert_eq!(params[0].get().shape(), [2, 3]);
        assert_eq!(params[0].get().to_vec::<f32>()?, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(params[1].get().to_vec::<i32>()?, [14, 16]);
        assert_eq!(params[2].get().to_vec::<f32>()?, [18.0]);
        // Tracers come and go, and leave views of the same buffers.
        drop(layout.swap(&arrays));
        assert!(layout.are_from(&views));

        params[2].set(arrays[2].clone());
        assert!(!layout.are_from(&views));
        let gathered = layout.gather()?;
        assert_eq!(gathered[0].to_vec::<f32>()?, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 9.0]);
        Ok(())
    }

    #[test]
    fn a_buffer_that_is_full_is_followed_by_another() -> Result<()> {
        let lengths = [3, 4, 2, 9, 1];
        let full = |n: i32| ops::full(&[n], &Array::scalar(n as f32)?, Dtype::Float32);
        let arrays = lengths.map(full);
        let arrays: Vec<Array> = arrays.into_iter().collect::<mlx_graft::Result<_>>()?;
        let params: Vec<Param> = arrays.iter().cloned().map(Param::trainable).collect();
        let layout = Layout::with_most(&named(&params), &arrays, 6);
        let buffers = layout.gather()?;
        // Nine elements are more than fit, and get a buffer of their own.
        let sizes: Vec<usize> = buffers.iter().map(Array::size).collect();
        assert_eq!((layout.len(), sizes), (3, vec![6, 4, 9]));
        let names: Vec<&str> = layout.named().map(|(name, _)| name).collect();
        assert_eq!(names, ["0", "2", "4", "1", "3"]);
        for (param, view) in layout.params.iter().zip(layout.views(&buffers)?) {
            assert_eq!(view.to_vec::<f32>()?, param.get().to_vec::<f32>()?);
        }
        let doubled = buffers.iter().map(|buffer| ops::add(buffer, buffer));
        let _views = layout.scatter(doubled.collect::<mlx_graft::Result<_>>()?);
        for (param, n) in params.iter().zip(lengths) {
            assert_eq!(param.get().to_vec::<f32>()?, vec![2.0 * n as f32; n as usize]);
        }
        Ok(())
    }
}
