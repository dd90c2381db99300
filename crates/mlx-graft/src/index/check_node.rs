//! The node of the graph that fails if an index is out of range.

use std::borrow::Cow;

use crate::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Poison, Primitive,
};
use crate::{Array, Dtype, Element, Error, ErrorKind, Result, ops, primitive};

/// What an index counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Extent {
    /// The places of an axis.
    Axis(usize),
    /// The elements of all dimensions but the last `without`.
    Leading {
        /// How many dimensions do not count.
        without: usize,
    },
}

impl Extent {
    pub(super) fn axes(&self, ndim: usize) -> Vec<i32> {
        match self {
            Self::Axis(axis) => vec![*axis as i32],
            Self::Leading { without } => (0..ndim.saturating_sub(*without) as i32).collect(),
        }
    }

    pub(super) fn length(&self, shape: &[i32]) -> i64 {
        self.axes(shape.len()).iter().map(|&axis| i64::from(shape[axis as usize])).product()
    }
}

/// How many places belong to an index.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Size {
    Fixed(i32),
    /// As many as an axis of the update has, which another call of a trace may have more of.
    OfUpdate(usize),
}

/// Which indices are in range: a slice of `size` that starts there lies inside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    pub(super) extent: Extent,
    pub(super) size: Size,
    /// Whether negative ones count from the end.
    pub(super) negative: bool,
}

impl Limit {
    pub(super) fn new(extent: Extent, size: Size, negative: bool) -> Self {
        Self { extent, size, negative }
    }

    fn bound(&self, shape: &[i32], update: &[i32]) -> Bound {
        let size = match self.size {
            Size::Fixed(size) => size,
            Size::OfUpdate(axis) => update[axis],
        };
        let length = self.extent.length(shape);
        Bound { length, size: size.into(), negative: self.negative }
    }
}

/// A limit for arrays of known shapes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    pub(super) length: i64,
    pub(super) size: i64,
    negative: bool,
}

impl Bound {
    pub(super) fn of_all(limits: &[Limit], shape: &[i32], update: &[i32]) -> Vec<Self> {
        limits.iter().map(|limit| limit.bound(shape, update)).collect()
    }

    fn holds(&self, index: i64) -> bool {
        let start = if index < 0 && self.negative { index + self.length } else { index };
        start >= 0 && start <= self.length - self.size
    }
}

/// Fails if no index at all is in range, as then there is none that the operation could be given in
/// place of a wrong one.
pub(super) fn check_room(op: &'static str, indices: &[i32], bounds: &[Bound]) -> Result<()> {
    let none = indices.contains(&0);
    let Some(Bound { length, size, .. }) =
        bounds.iter().find(|bound| bound.length < bound.size).filter(|_| !none)
    else {
        return Ok(());
    };
    let message = if *size == 1 {
        format!("a length of {length} has no index")
    } else {
        format!("a slice of {size} does not fit into a length of {length}")
    };
    Err(Error::Mlx { kind: ErrorKind::OutOfRange, op, message })
}

/// An integer of any dtype; what does not fit is as far out of range.
trait Index: Element {
    fn wide(self) -> i64;
}

macro_rules! index {
    ($($ty:ty)*) => {
        $(impl Index for $ty {
            fn wide(self) -> i64 {
                i64::try_from(self).unwrap_or(i64::MAX)
            }
        })*
    };
}

index!(u8 u16 u32 u64 i8 i16 i32 i64);

/// Runs `$body` with `$ty` as the Rust type of an integer dtype.
macro_rules! with_index_type {
    ($dtype:expr, $ty:ident => $body:expr, $otherwise:expr) => {
        with_index_type!(
            $dtype, $ty => $body, $otherwise;
            Uint8 u8, Uint16 u16, Uint32 u32, Uint64 u64, Int8 i8, Int16 i16, Int32 i32, Int64 i64
        )
    };
    ($dtype:expr, $ty:ident => $body:expr, $otherwise:expr; $($variant:ident $integer:ty),*) => {
        match $dtype {
            $(Dtype::$variant => {
                type $ty = $integer;
                $body
            })*
            _ => $otherwise,
        }
    };
}

/// The first index out of range, with the length that it is out of.
fn violation<T: Index>(indices: &[T], bounds: &[Bound]) -> Option<(i64, i64)> {
    let mut pairs = indices.iter().map(|index| index.wide()).zip(bounds.iter().cycle());
    let found = pairs.find(|(index, bound)| !bound.holds(*index));
    found.map(|(index, bound)| (index, bound.length))
}

/// Checks indices that are evaluated.
pub(super) fn check_now(op: &'static str, indices: &Array, bounds: &[Bound]) -> Result<()> {
    let found = with_index_type!(
        indices.dtype(),
        T => violation(&indices.as_slice::<T>()?, bounds),
        None
    );
    found.map_or(Ok(()), |(index, length)| Err(Error::Index { op, index, length }))
}

/// The first input, if each number in it is in range. Where others follow, bounds are those of
/// their shapes: of the array, and of the update if there is one; their elements do not matter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CheckIndices {
    op: &'static str,
    limits: Vec<Limit>,
    bounds: Vec<Bound>,
    /// Whether it looks at shapes only, and so needs no kernel.
    only_shapes: bool,
}

impl CheckIndices {
    pub(super) fn new(op: &'static str, limits: Vec<Limit>, bounds: Vec<Bound>) -> Self {
        Self { op, limits, bounds, only_shapes: false }
    }

    /// One for indices that are in range wherever there is a range.
    pub(super) fn of_shapes(op: &'static str, limits: Vec<Limit>, bounds: Vec<Bound>) -> Self {
        Self { op, limits, bounds, only_shapes: true }
    }

    pub(super) fn apply(self, inputs: &[Array]) -> Result<Array> {
        if self.only_shapes {
            return primitive::pass(self, inputs);
        }
        let inputs: Vec<&Array> = inputs.iter().collect();
        Ok(primitive::apply(self, &inputs)?.remove(0))
    }

    fn bounds<'b>(&'b self, others: &[&[i32]]) -> Cow<'b, [Bound]> {
        match others {
            [] => Cow::Borrowed(&self.bounds),
            [shape, rest @ ..] => {
                let update = rest.first().copied().unwrap_or_default();
                Cow::Owned(Bound::of_all(&self.limits, shape, update))
            }
        }
    }
}

impl Primitive for CheckIndices {
    const NAME: &'static str = "check_indices";
    /// Zero is in range wherever any index is, which `output_specs` sees to.
    const POISON: Poison = Poison::Zero;

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let others: Vec<&[i32]> = inputs[1..].iter().map(|other| &*other.shape).collect();
        check_room(self.op, &inputs[0].shape, &self.bounds(&others))?;
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let others: Vec<&[i32]> = inputs[1..].iter().map(InputBuffer::shape).collect();
        let bounds = self.bounds(&others);
        with_index_type!(
            inputs[0].dtype(),
            T => {
                let indices = inputs[0].as_slice::<T>()?;
                if let Some((index, length)) = violation(indices, &bounds) {
                    return Err(KernelError::index(self.op, index, length));
                }
                outputs[0].as_mut_slice::<T>()?.copy_from_slice(indices);
                Ok(())
            },
            Err(KernelError::new("indices are integers"))
        )
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let product = |&argnum: &usize| match argnum {
            0 => Ok(cotangents[0].clone()),
            other => ops::zeros_like(&primals[other]),
        };
        argnums.iter().map(product).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let at = argnums.iter().position(|&argnum| argnum == 0);
        Ok(vec![at.map_or_else(|| ops::zeros_like(&primals[0]), |at| Ok(tangents[at].clone()))?])
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let mut axis = axes[0];
        let mut inputs = inputs.to_vec();
        if let Some(from) = axis.filter(|_| self.limits.len() > 1) {
            // The limits belong to neighbours in memory, so the new dimension is the first.
            inputs[0] = ops::moveaxis(&inputs[0], from, 0)?;
            axis = Some(0);
        }
        for (other, mapped) in inputs.iter_mut().zip(axes).skip(1) {
            let Some(mapped) = mapped else { continue };
            // Only lengths are asked of it, which are the same for each member.
            let (mut stop, ndim) = (other.shape().to_vec(), other.ndim());
            stop[*mapped as usize] = 1;
            let one = ops::slice(other, &vec![0; ndim], &stop, &vec![1; ndim])?;
            *other = ops::squeeze_axis(&one, *mapped)?;
        }
        Ok((vec![self.clone().apply(&inputs)?], vec![axis]))
    }

    fn layout(&self, input: usize) -> Layout {
        if input == 0 { Layout::RowContiguous } else { Layout::Strided }
    }
}
