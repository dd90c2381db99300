//! Reading and updating the place of an index.

use super::Index;
use super::plan::{Plan, Update};
use crate::{Array, Dtype, Error, Result, ops};

/// The refusal of an update whose result the dtype has no number for.
fn no_number(op: &'static str, dtype: Dtype) -> Error {
    let message = format!(
        "an update of {dtype} has no result of that dtype: convert the array with `ops::astype`"
    );
    Error::invalid_argument(op, message)
}

/// The elements of an array at an index, made by [`Array::at`].
///
/// An update returns the whole array with these elements changed. The value is converted to the
/// array's dtype and broadcast to the shape of the elements. Where arrays of indices name a place
/// more than once, all updates count; of several values that are set, one stays.
#[must_use = "updates return a new array and leave this one as it is"]
pub struct At<'a> {
    array: &'a Array,
    indices: Vec<Index>,
}

impl<'a> At<'a> {
    pub(super) fn new(array: &'a Array, indices: Vec<Index>) -> Self {
        Self { array, indices }
    }

    /// The elements.
    ///
    /// # Errors
    /// As for [`Array::get`].
    pub fn get(&self) -> Result<Array> {
        Plan::new("get", self.array, &self.indices)?.get(self.array)
    }

    /// The array with the elements replaced.
    ///
    /// # Errors
    /// As for [`Array::get`], or the value does not broadcast to the elements.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// let x = Array::from_slice(&[1, 2, 3, 4], &[2, 2])?;
    /// let row = Array::from_slice(&[7, 8], &[2])?;
    /// assert_eq!(x.at(0).set(&row)?.to_vec::<i32>()?, [7, 8, 3, 4]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn set(&self, value: &Array) -> Result<Array> {
        self.update("set", value, Update::Set)
    }

    /// The array with the value added to the elements.
    ///
    /// # Errors
    /// As for [`At::set`].
    pub fn add(&self, value: &Array) -> Result<Array> {
        self.update("add", value, Update::Add)
    }

    /// The array with the value subtracted from the elements.
    ///
    /// # Errors
    /// As for [`At::set`], or the array holds booleans, of which there is no difference.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// let x = Array::from_slice(&[10, 20], &[2])?;
    /// let one = Array::from_slice(&[1_u8], &[1])?;
    /// assert_eq!(x.at(0).subtract(&one)?.to_vec::<i32>()?, [9, 20]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn subtract(&self, value: &Array) -> Result<Array> {
        const OP: &str = "subtract";
        let dtype = self.array.dtype();
        if dtype == Dtype::Bool {
            return Err(no_number(OP, dtype));
        }
        // In the dtype of the array: that of the value may have no numbers below zero.
        self.update(OP, &ops::negative(&ops::astype(value, dtype)?)?, Update::Add)
    }

    /// The array with the elements multiplied by the value.
    ///
    /// # Errors
    /// As for [`At::set`].
    pub fn multiply(&self, value: &Array) -> Result<Array> {
        self.update("multiply", value, Update::Multiply)
    }

    /// The array with the elements divided by the value, by multiplying with its reciprocal.
    ///
    /// # Errors
    /// As for [`At::set`], or the array holds integers, which have no reciprocal.
    pub fn divide(&self, value: &Array) -> Result<Array> {
        const OP: &str = "divide";
        let dtype = self.array.dtype();
        if dtype.is_integer() || dtype == Dtype::Bool {
            return Err(no_number(OP, dtype));
        }
        self.update(OP, &ops::reciprocal(&ops::astype(value, dtype)?)?, Update::Multiply)
    }

    /// The array with the larger of element and value.
    ///
    /// # Errors
    /// As for [`At::set`].
    pub fn maximum(&self, value: &Array) -> Result<Array> {
        self.update("maximum", value, Update::Maximum)
    }

    /// The array with the smaller of element and value.
    ///
    /// # Errors
    /// As for [`At::set`].
    pub fn minimum(&self, value: &Array) -> Result<Array> {
        self.update("minimum", value, Update::Minimum)
    }

    fn update(&self, op: &'static str, value: &Array, update: Update) -> Result<Array> {
        if let [Index::Array(mask)] = &self.indices[..]
            && mask.dtype() == Dtype::Bool
            && let Some(result) = self.masked(mask, value, update)?
        {
            return Ok(result);
        }
        Plan::new(op, self.array, &self.indices)?.update(self.array, value, update)
    }

    /// The update where a mask holds, without asking for the mask's values: possible if the value is
    /// the same for all places.
    fn masked(&self, mask: &Array, value: &Array, update: Update) -> Result<Option<Array>> {
        let shape = self.array.shape();
        let (from, rest) = (mask.ndim(), shape.len().saturating_sub(mask.ndim()));
        if from == 0 || shape.get(..from) != Some(mask.shape()) || value.ndim() > rest {
            return Ok(None);
        }
        let axes: Vec<i32> = (from as i32..shape.len() as i32).collect();
        let mask = if axes.is_empty() { mask.clone() } else { ops::expand_dims_axes(mask, &axes)? };
        let value = ops::broadcast_to(&ops::astype(value, self.array.dtype())?, &shape[from..])?;
        let updated = match update {
            Update::Set => value,
            Update::Add => ops::add(self.array, &value)?,
            Update::Multiply => ops::multiply(self.array, &value)?,
            Update::Maximum => ops::maximum(self.array, &value)?,
            Update::Minimum => ops::minimum(self.array, &value)?,
        };
        ops::where_(&mask, &updated, self.array).map(Some)
    }
}
