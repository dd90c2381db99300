//! Safe operations neither read nor write outside of an array, whatever the indices.

#[path = "common/indices.rs"]
mod indices;
#[path = "common/main_thread.rs"]
mod main_thread;
#[path = "common/numbers.rs"]
mod numbers;

use indices::{indices, lazy};
use main_thread::away_from_the_main_thread;
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, fast, ops, transforms};
use numbers::numbers;

type Scatter = fn(&Array, &[Array], &Array, &[i32]) -> Result<Array>;
type Single = fn(&Array, &Array, &Array, i32) -> Result<Array>;

fn corner(x: &Result<Array>) -> i32 {
    x.as_ref().unwrap().get((0, 0)).unwrap().item().unwrap()
}

/// Fails at once for evaluated indices, when evaluated for lazy ones, and in a compiled function.
#[track_caller]
fn assert_out_of_range(
    index: i64,
    length: i64,
    indices: &Array,
    f: impl Fn(&Array) -> Result<Array> + Clone + 'static,
) {
    let check = |error: Error| {
        assert!(
            matches!(error, Error::Index { index: i, length: l, .. } if (i, l) == (index, length)),
            "{error:?}"
        );
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    };
    check(f(indices).expect_err("found at once"));
    let result = f(&lazy(indices)).expect("found later");
    check(result.eval().expect_err("found by the evaluation"));
    let compiled = transforms::compile(move |x| Ok(vec![f(&x[0])?]), false).unwrap();
    check(compiled.call(&[indices]).and_then(|y| y[0].eval()).expect_err("found when compiled"));
}

#[test]
fn lookups() {
    away_from_the_main_thread();
    let good = indices(&[-3_i32, 2, 0, -1]);
    for index in [&good, &lazy(&good)] {
        let rows = ops::take_axis(&numbers(&[3, 2]), index, 0).unwrap();
        assert_eq!(rows.to_vec::<f32>().unwrap(), [0.0, 1.0, 4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
    }
    for bad in [3_i64, -4, i64::MAX, i64::MIN] {
        let index = indices(&[0, bad, 9]);
        assert_out_of_range(bad, 3, &index, |i| ops::take_axis(&numbers(&[3, 2]), i, 0));
        assert_out_of_range(bad, 3, &index, |i| ops::take_axis(&numbers(&[2, 3]), i, -1));
        assert_out_of_range(bad, 3, &index, |i| ops::take(&numbers(&[3, 1]), i));
        assert_out_of_range(bad, 3, &index, |i| ops::take_along_axis(&numbers(&[3]), i, 0));
        assert_out_of_range(bad, 3, &index, |i| {
            ops::put_along_axis(&numbers(&[3]), i, &Array::scalar(1.0_f32)?, 0)
        });
        assert_out_of_range(bad, 3, &index, |i| {
            ops::scatter_add_axis(&numbers(&[3]), i, &Array::scalar(1.0_f32)?, 0)
        });
    }
    assert_out_of_range(i64::MAX, 3, &indices(&[u64::MAX]), |i| ops::take(&numbers(&[3]), i));
    assert_out_of_range(255, 3, &indices(&[255_u8]), |i| ops::take(&numbers(&[3]), i));
    assert_out_of_range(-4, 3, &indices(&[-4_i8]), |i| ops::take(&numbers(&[3]), i));
    assert!(ops::take(&numbers(&[0]), &indices(&[0])).is_err());
    assert_eq!(ops::take(&numbers(&[0]), &indices::<i32>(&[])).unwrap().shape(), [0]);
}

#[test]
fn classes() -> Result<()> {
    away_from_the_main_thread();
    let loss = |i: &Array| fast::cross_entropy(&numbers(&[2, 3]), i);
    for bad in [3_i64, -1, 1 << 32, i64::MIN] {
        assert_out_of_range(bad, 3, &indices(&[0, bad]), loss);
    }
    // To MLX this is class 0, as it counts them in 32 bits.
    assert_out_of_range(1 << 32, 3, &indices(&[2, 1_u64 << 32]), loss);
    let found = loss(&lazy(&indices(&[2_u8, 0])))?.to_vec::<f32>()?;
    let below = (1.0 + f32::exp(-1.0) + f32::exp(-2.0)).ln();
    assert!((found[0] - below).abs() < 1e-5 && (found[1] - below - 2.0).abs() < 1e-5, "{found:?}");

    // The gradient writes at the class.
    let total = |v: &[Array]| Ok(vec![ops::sum(&fast::cross_entropy(&v[0], &v[1])?, false)?]);
    let gradient = |i: &Array| transforms::grad(total, &[0], &[&numbers(&[2, 3]), i]);
    let good = gradient(&indices(&[2, 0]))?.remove(0).to_vec::<f32>()?;
    assert!((good.iter().sum::<f32>()).abs() < 1e-5 && good[2] < 0.0 && good[3] < 0.0, "{good:?}");
    let result = gradient(&lazy(&indices(&[2, 1_000_000]))).and_then(|g| g[0].eval());
    assert!(matches!(result, Err(Error::Index { index: 1_000_000, length: 3, .. })), "{result:?}");
    assert!(loss(&indices(&[0.0_f32, 1.0])).is_err());
    assert!(fast::cross_entropy(&Array::scalar(0.0_f32)?, &indices(&[0])).is_err());
    assert_no_room(
        fast::cross_entropy(&numbers(&[1, 0]), &lazy(&indices(&[0]))),
        "a length of 0 has no index",
    );
    Ok(())
}

#[test]
fn slices_that_begin_in_range_end_in_it() {
    away_from_the_main_thread();
    let rows = |i: &Array| ops::gather(&numbers(&[4, 3]), &[i], &[0], &[2, 3]);
    assert_eq!(rows(&indices(&[2, -4])).unwrap().shape(), [2, 2, 3]);
    assert_out_of_range(3, 4, &indices(&[3]), rows);
    assert_out_of_range(-1, 4, &indices(&[-1]), rows);
    assert_out_of_range(3, 4, &indices(&[3]), |i| {
        ops::gather_single(&numbers(&[4, 3]), i, 0, &[2, 3])
    });
    let several: [Scatter; 5] =
        [ops::scatter, ops::scatter_add, ops::scatter_max, ops::scatter_min, ops::scatter_prod];
    let single: [Single; 5] = [
        ops::scatter_single,
        ops::scatter_add_single,
        ops::scatter_max_single,
        ops::scatter_min_single,
        ops::scatter_prod_single,
    ];
    for (several, single) in several.into_iter().zip(single) {
        assert_out_of_range(3, 4, &indices(&[0, 3]), move |i| {
            several(&numbers(&[4, 3]), std::slice::from_ref(i), &numbers(&[2, 2, 3]), &[0])
        });
        assert_out_of_range(-4, 3, &indices(&[0, -4]), move |i| {
            single(&numbers(&[4, 3]), i, &numbers(&[2, 4, 1]), 1)
        });
        assert!(several(&numbers(&[4]), &[indices(&[true])], &numbers(&[1, 1]), &[0]).is_err());
    }
}

#[test]
fn starts_of_dynamic_slices() {
    away_from_the_main_thread();
    let cut = |i: &Array| ops::slice_dynamic(&numbers(&[4, 5]), i, &[0, 1], &[2, 3]);
    assert_eq!(corner(&cut(&indices(&[2, 2]))), 12);
    assert_out_of_range(3, 4, &indices(&[3, 0]), cut);
    assert_out_of_range(3, 5, &indices(&[0, 3]), cut);
    assert_out_of_range(-1, 5, &indices(&[0, -1]), cut);
    let put =
        |i: &Array| ops::slice_update_dynamic(&numbers(&[4, 5]), &numbers(&[2, 3]), i, &[0, 1]);
    assert_eq!(put(&indices(&[2, 2])).unwrap().shape(), [4, 5]);
    assert_out_of_range(3, 4, &indices(&[3, 0]), put);
    assert_out_of_range(3, 5, &indices(&[0, 3]), put);
    // A start that is read with its strides: MLX reads it as if it had none.
    let turned = ops::slice(&indices(&[2, 9, 1, 9]), &[2], &[-5], &[-2]).unwrap();
    assert_eq!(corner(&cut(&turned)), 7);
    let wide = ops::broadcast_to(&Array::scalar(1).unwrap(), &[2]).unwrap();
    assert_eq!(corner(&cut(&wide)), 6);
    // An update with more dimensions than the array.
    let update = ops::slice_update_dynamic(&numbers(&[4]), &numbers(&[1, 2]), &indices(&[0]), &[0]);
    assert_eq!(update.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn matrices_picked_from_batches() -> Result<()> {
    away_from_the_main_thread();
    let (a, b) = (numbers(&[4, 2, 3]), numbers(&[3, 3, 2]));
    let rhs = indices(&[0_u32, 2]);
    assert_eq!(ops::gather_mm(&a, &b, Some(&rhs), Some(&rhs), false)?.shape(), [2, 2, 2]);
    let (c, d) = (a.clone(), b.clone());
    assert_out_of_range(4, 4, &indices(&[4, 0]), move |i| {
        ops::gather_mm(&c, &d, Some(i), Some(&indices(&[0, 0])), false)
    });
    assert_out_of_range(-1, 3, &indices(&[-1, 0, 0, 0]), move |i| {
        ops::gather_mm(&a, &b, None, Some(i), false)
    });
    let (x, w) = (numbers(&[4, 1, 64]), numbers(&[3, 8, 64]));
    let packed = ops::quantize(&w, &ops::QuantizeOptions::default())?;
    assert_out_of_range(3, 3, &indices(&[0, 3, 0, 0]), move |i| {
        let options = ops::GatherQmmOptions::default().biases(&packed[2]).rhs_indices(i);
        ops::gather_qmm(&x, &packed[0], &packed[1], &options)
    });
    let segments = |k: i32, to: u32| {
        let segments = Array::from_slice(&[0, 4, 4, to], &[2, 2])?;
        ops::segmented_mm(&numbers(&[3, 8]), &numbers(&[k, 2]), &segments)
    };
    assert_eq!(segments(8, 8)?.shape(), [2, 3, 2]);
    assert!(matches!(segments(8, 9), Err(Error::Index { index: 9, length: 8, .. })));
    assert_eq!(segments(6, 8).unwrap_err().kind(), ErrorKind::InvalidArgument);
    Ok(())
}

#[test]
fn a_step_of_zero_is_an_error() {
    let x = numbers(&[4]);
    assert!(ops::slice(&x, &[0], &[4], &[0]).is_err());
    assert!(ops::slice_update(&x, &x, &[0], &[4], &[0]).is_err());
    assert!(ops::slice(&x, &[0], &[4], &[i32::MIN]).is_err());
}

#[test]
fn checks_are_transformed_with_the_function() -> Result<()> {
    away_from_the_main_thread();
    let (x, good) = (numbers(&[3, 2]), Array::from_slice(&[0, 2, 1, -1], &[2, 2])?);
    let rows = |v: &[Array]| Ok(vec![ops::take_axis(&v[0], &v[1], 0)?]);
    let loss =
        |v: &[Array]| Ok(vec![ops::sum(&ops::square(&ops::take_axis(&v[0], &v[1], 0)?)?, false)?]);

    // The gradient scatters with the same indices.
    let gradient = transforms::grad(loss, &[0], &[&x, &good])?[0].to_vec::<f32>()?;
    assert_eq!(gradient, [0.0, 2.0, 4.0, 6.0, 16.0, 20.0]);
    let gradient = transforms::grad(loss, &[0], &[&x, &lazy(&good)])?[0].to_vec::<f32>()?;
    assert_eq!(gradient, [0.0, 2.0, 4.0, 6.0, 16.0, 20.0]);
    let (_, products) = transforms::jvp(
        move |v| rows(&[v[0].clone(), lazy(&Array::from_slice(&[2, 0], &[2])?)]),
        &[&x],
        &[&x],
    )?;
    assert_eq!(products[0].to_vec::<f32>()?, [4.0, 5.0, 0.0, 1.0]);

    // Over the indices, over the array, over both.
    let wanted = ops::take_axis(&x, &good, 0)?.to_vec::<f32>()?;
    let mapped = transforms::vmap(rows, &[&x, &good], &[None, Some(0)], &[Some(0)])?;
    assert_eq!(mapped[0].to_vec::<f32>()?, wanted);
    let both = ops::stack(&[&x, &x])?;
    let mapped = transforms::vmap(rows, &[&both, &good], &[Some(0), Some(0)], &[Some(0)])?;
    assert_eq!(mapped[0].to_vec::<f32>()?, wanted);
    let mapped = transforms::vmap(rows, &[&both, &good], &[Some(0), None], &[Some(0)])?;
    assert_eq!(mapped[0].to_vec::<f32>()?, [wanted.clone(), wanted].concat());
    let bad = Array::from_slice(&[0, 2, 1, 3], &[2, 2])?;
    let mapped = transforms::vmap(rows, &[&x, &bad], &[None, Some(0)], &[Some(0)])?;
    assert!(matches!(mapped[0].eval(), Err(Error::Index { index: 3, length: 3, .. })));
    Ok(())
}

#[test]
fn a_compiled_function_checks_the_lengths_it_is_called_with() -> Result<()> {
    away_from_the_main_thread();
    let rows = transforms::compile(|v| Ok(vec![ops::take_along_axis(&v[0], &v[1], 0)?]), true)?;
    let index = indices(&[4]);
    assert_eq!(rows.call(&[&numbers(&[5]), &index])?[0].to_vec::<f32>()?, [4.0]);
    let error = rows.call(&[&numbers(&[3]), &index]).and_then(|y| y[0].eval()).unwrap_err();
    assert!(matches!(error, Error::Index { index: 4, length: 3, .. }), "{error:?}");
    Ok(())
}

/// What fails because no index at all is in range.
#[track_caller]
fn assert_no_room(result: Result<Array>, message: &str) {
    let error = result.and_then(|y| y.eval()).expect_err("nothing fits");
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error:?}");
    assert!(error.to_string().ends_with(message), "{error}");
}

#[test]
fn where_no_index_is_in_range_nothing_runs() -> Result<()> {
    away_from_the_main_thread();
    // MLX would read the millionth element of nothing.
    let index = lazy(&ops::zeros(&[1, 3_000_000], Dtype::Int32)?);
    let nothing = ops::zeros(&[0, 3_000_000], Dtype::Float32)?;
    let none = "a length of 0 has no index";
    assert_no_room(ops::take_along_axis(&nothing, &index, 0), none);
    let zero = lazy(&indices(&[0]));
    assert_no_room(ops::take_axis(&numbers(&[2, 0]), &zero, 1), none);
    assert_no_room(ops::take(&numbers(&[0]), &zero), none);
    let cut = ops::slice_dynamic(&numbers(&[3]), &zero, &[0], &[5]);
    assert_no_room(cut, "a slice of 5 does not fit into a length of 3");
    // Without an index none is wrong.
    let no_index = lazy(&indices::<i32>(&[]));
    assert_eq!(ops::take(&numbers(&[0]), &no_index)?.to_vec::<f32>()?, [0.0; 0]);
    assert_eq!(ops::take_along_axis(&numbers(&[0]), &no_index, 0)?.to_vec::<f32>()?, [0.0; 0]);
    Ok(())
}

#[test]
fn a_compiled_function_refuses_lengths_without_a_valid_index() -> Result<()> {
    away_from_the_main_thread();
    let start = indices(&[0]);
    let cut = |v: &[Array]| Ok(vec![ops::slice_dynamic(&v[0], &v[1], &[0], &[5])?]);
    let cut = transforms::compile(cut, true)?;
    let five = cut.call(&[&numbers(&[6]), &indices(&[1])])?.remove(0);
    assert_eq!(five.to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_no_room(
        cut.call(&[&numbers(&[3]), &start]).map(|mut y| y.remove(0)),
        "a slice of 5 does not fit into a length of 3",
    );
    let rows = transforms::compile(|v| Ok(vec![ops::take_along_axis(&v[0], &v[1], 0)?]), true)?;
    let index = ops::zeros(&[1, 4], Dtype::Int32)?;
    assert_eq!(rows.call(&[&numbers(&[2, 4]), &index])?[0].shape(), [1, 4]);
    let index = ops::zeros(&[1, 3_000_000], Dtype::Int32)?;
    let nothing = ops::zeros(&[0, 3_000_000], Dtype::Float32)?;
    let result = rows.call(&[&nothing, &index]).map(|mut y| y.remove(0));
    assert_no_room(result, "a length of 0 has no index");
    Ok(())
}

#[test]
fn a_compiled_function_checks_the_updates_it_is_called_with() -> Result<()> {
    away_from_the_main_thread();
    let put = |v: &[Array]| Ok(vec![ops::slice_update_dynamic(&v[0], &v[1], &v[2], &[0])?]);
    let put = transforms::compile(put, true)?;
    let (a, start) = (numbers(&[5]), indices(&[3]));
    assert_eq!(put.call(&[&a, &numbers(&[2]), &start])?[0].to_vec::<f32>()?[3..], [0.0, 1.0]);
    // Four numbers from the third on would be written past the end.
    let error = put.call(&[&a, &numbers(&[4]), &start]).and_then(|y| y[0].eval()).unwrap_err();
    assert!(matches!(error, Error::Index { index: 3, length: 5, .. }), "{error:?}");
    assert_no_room(
        put.call(&[&a, &numbers(&[1 << 20]), &start]).map(|mut y| y.remove(0)),
        "a slice of 1048576 does not fit into a length of 5",
    );
    // The array is a constant, the update is not.
    let put = |v: &[Array]| {
        Ok(vec![ops::slice_update_dynamic(&numbers(&[5]), &v[0], &indices(&[3]), &[0])?])
    };
    let put = transforms::compile(put, true)?;
    assert_eq!(put.call(&[&numbers(&[2])])?[0].shape(), [5]);
    let error = put.call(&[&numbers(&[4])]).and_then(|y| y[0].eval()).unwrap_err();
    assert!(matches!(error, Error::Index { index: 3, length: 5, .. }), "{error:?}");
    Ok(())
}

#[test]
fn an_array_that_failed_is_there_with_what_the_failure_left() -> Result<()> {
    away_from_the_main_thread();
    // MLX takes what has run as evaluated: the documentation says what is in it.
    let y = ops::take(&numbers(&[3]), &lazy(&indices(&[1, 7])))?;
    assert!(matches!(y.eval(), Err(Error::Index { index: 7, length: 3, .. })));
    assert_eq!(y.to_vec::<f32>()?, [0.0, 0.0]);
    Ok(())
}
