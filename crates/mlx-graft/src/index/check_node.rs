//! The node of the graph that fails if an index is out of range.

use crate::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Poison, Primitive,
};
use crate::{Array, Dtype, Element, Error, Result, ops, primitive};

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

/// Which indices are in range: a slice of `size` that starts there lies inside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    pub(super) extent: Extent,
    pub(super) size: i32,
    /// Whether negative ones count from the end.
    pub(super) negative: bool,
}

impl Limit {
    pub(super) fn new(extent: Extent, size: i32, negative: bool) -> Self {
        Self { extent, size, negative }
    }

    fn holds(&self, index: i64, length: i64) -> bool {
        let start = if index < 0 && self.negative { index + length } else { index };
        start >= 0 && start <= length - i64::from(self.size)
    }
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
fn violation<T: Index>(indices: &[T], limits: &[Limit], lengths: &[i64]) -> Option<(i64, i64)> {
    let limits = limits.iter().zip(lengths).cycle();
    let mut pairs = indices.iter().map(|index| index.wide()).zip(limits);
    let found = pairs.find(|(index, (limit, length))| !limit.holds(*index, **length));
    found.map(|(index, (_, &length))| (index, length))
}

/// Checks indices that are evaluated.
pub(super) fn check_now(
    op: &'static str,
    indices: &Array,
    limits: &[Limit],
    lengths: &[i64],
) -> Result<()> {
    let found = with_index_type!(
        indices.dtype(),
        T => violation(&indices.as_slice::<T>()?, limits, lengths),
        None
    );
    found.map_or(Ok(()), |(index, length)| Err(Error::Index { op, index, length }))
}

/// The first input, if each number in it is in range. Lengths are those of the second input if
/// there is one, an array whose elements do not matter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CheckIndices {
    op: &'static str,
    limits: Vec<Limit>,
    lengths: Vec<i64>,
}

impl CheckIndices {
    pub(super) fn new(op: &'static str, limits: Vec<Limit>, shape: &[i32]) -> Self {
        let lengths = limits.iter().map(|limit| limit.extent.length(shape)).collect();
        Self { op, limits, lengths }
    }
}

impl Primitive for CheckIndices {
    const NAME: &'static str = "check_indices";
    /// Zero is the index that does least harm to the operation that comes next.
    const POISON: Poison = Poison::Zero;

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let lengths = match inputs.get(1) {
            Some(a) => {
                &self.limits.iter().map(|limit| limit.extent.length(a.shape())).collect::<Vec<_>>()
            }
            None => &self.lengths,
        };
        with_index_type!(
            inputs[0].dtype(),
            T => {
                let indices = inputs[0].as_slice::<T>()?;
                if let Some((index, length)) = violation(indices, &self.limits, lengths) {
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
        if let Some(Some(mapped)) = axes.get(1) {
            // Only lengths are asked of it, which are the same for each member.
            let (mut stop, ndim) = (inputs[1].shape().to_vec(), inputs[1].ndim());
            stop[*mapped as usize] = 1;
            let one = ops::slice(&inputs[1], &vec![0; ndim], &stop, &vec![1; ndim])?;
            inputs[1] = ops::squeeze_axis(&one, *mapped)?;
        }
        let inputs: Vec<&Array> = inputs.iter().collect();
        Ok((primitive::apply(self.clone(), &inputs)?, vec![axis]))
    }

    fn layout(&self, input: usize) -> Layout {
        if input == 0 { Layout::RowContiguous } else { Layout::Strided }
    }
}
