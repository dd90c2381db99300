//! Gradients of running extremes, with NaN and without.

use mlx_graft::{Array, Result, ops, transforms};

type Scan = fn(&Array, i32, bool, bool) -> Result<Array>;

fn gradient(scan: Scan, values: &[f32], reverse: bool, inclusive: bool) -> Result<[Vec<f32>; 2]> {
    let x = Array::from_slice(values, &[values.len() as i32])?;
    // Every place weighs another power of two, so that sums tell where they come from.
    let weights: Vec<f32> = (0..values.len()).map(|place| (1 << place) as f32).collect();
    let weights = Array::from_slice(&weights, x.shape())?;
    let f = move |x: &[Array]| {
        let y = scan(&x[0], 0, reverse, inclusive)?;
        // The start of an exclusive scan is infinite.
        let y = ops::nan_to_num(&y, 0.0, Some(0.0), Some(0.0))?;
        Ok(vec![ops::sum(&ops::multiply(&y, &weights)?, false)?])
    };
    let (_, gradients) = transforms::value_and_grad(f, &[0], std::slice::from_ref(&x))?;
    Ok([scan(&x, 0, reverse, inclusive)?.to_vec()?, gradients[0].to_vec()?])
}

#[test]
fn gradients_without_nan_are_those_of_mlx() -> Result<()> {
    // Of equal elements the last has it all: what `mlx.core` 0.32.2 gives for these.
    let values = [1.0, 3.0, 3.0, 2.0, 4.0];
    let cases: [(Scan, bool, bool, [f32; 5]); 8] = [
        (ops::cummax_axis, false, true, [1.0, 2.0, 12.0, 0.0, 16.0]),
        (ops::cummax_axis, true, true, [0.0, 0.0, 0.0, 0.0, 31.0]),
        (ops::cummin_axis, false, true, [31.0, 0.0, 0.0, 0.0, 0.0]),
        (ops::cummin_axis, true, true, [1.0, 0.0, 0.0, 14.0, 16.0]),
        (ops::cummax_axis, false, false, [2.0, 4.0, 24.0, 0.0, 0.0]),
        (ops::cummax_axis, true, false, [0.0, 0.0, 0.0, 0.0, 15.0]),
        (ops::cummin_axis, false, false, [30.0, 0.0, 0.0, 0.0, 0.0]),
        (ops::cummin_axis, true, false, [0.0, 0.0, 0.0, 7.0, 8.0]),
    ];
    for (number, (scan, reverse, inclusive, expected)) in cases.into_iter().enumerate() {
        let [_, found] = gradient(scan, &values, reverse, inclusive)?;
        assert_eq!(found, expected, "case {number}");
    }
    Ok(())
}

#[test]
fn the_infinite_start_of_an_exclusive_scan_spoils_no_gradient() -> Result<()> {
    for (scan, reverse, expected) in [
        (ops::cummax_axis as Scan, false, [18.0, 0.0, 0.0, 0.0]),
        (ops::cummin_axis, true, [0.0, 2.0, 4.0, 10.0]),
    ] {
        let x = Array::from_slice(&[3.0_f32, 1.0, 2.0, 5.0], &[4])?;
        let squares = move |x: &[Array]| {
            let y = scan(&x[0], 0, reverse, false)?;
            Ok(vec![ops::sum(&ops::square(&y)?, false)?])
        };
        let slope = transforms::grad(squares, &[0], &[x])?;
        assert_eq!(slope[0].to_vec::<f32>()?, expected);
    }
    Ok(())
}

#[test]
fn gradients_with_nan_stay_in_the_array() -> Result<()> {
    let nan = f32::NAN;
    for scan in [ops::cummax_axis as Scan, ops::cummin_axis] {
        for values in [&[nan, 1.0, 2.0][..], &[1.0, nan, 2.0], &[1.0, 2.0, nan], &[nan; 3], &[nan]]
        {
            for (reverse, inclusive) in [(false, true), (true, true), (false, false), (true, false)]
            {
                let [_, found] = gradient(scan, values, reverse, inclusive)?;
                assert_eq!(found.len(), values.len());
                assert!(found.iter().all(|x| x.is_finite()), "{found:?}");
                let hit = |(value, gradient): (&f32, &f32)| value.is_nan() && *gradient != 0.0;
                assert!(!values.iter().zip(&found).any(hit), "{values:?}: {found:?}");
            }
        }
    }
    let [values, found] = gradient(ops::cummax_axis, &[1.0, 2.0, nan, 3.0], false, true)?;
    assert_eq!(values[..2], [1.0, 2.0]);
    assert!(values[2..].iter().all(|x| x.is_nan()));
    assert_eq!(found, [1.0, 2.0, 0.0, 0.0]);
    // A single element, of which an exclusive scan keeps nothing.
    assert_eq!(gradient(ops::cummax_axis, &[2.0], false, false)?[1], [0.0]);
    Ok(())
}

#[test]
fn values_are_the_same_in_transformations() -> Result<()> {
    let x = Array::from_slice(&[3.0_f32, 1.0, f32::INFINITY, 2.0, -1.0, f32::NAN], &[2, 3])?;
    let bits = |x: &Array| -> Result<Vec<u32>> {
        Ok(x.to_vec::<f32>()?.iter().map(|x| x.to_bits()).collect())
    };
    for scan in [ops::cummax_axis as Scan, ops::cummin_axis] {
        for (reverse, inclusive) in [(false, true), (true, true), (false, false), (true, false)] {
            let plain = bits(&scan(&x, 1, reverse, inclusive)?)?;
            let f = move |x: &[Array]| Ok(vec![scan(&x[0], -1, reverse, inclusive)?]);
            if reverse != inclusive {
                // A compiler takes a while for each.
                let compiled = transforms::compile(f, false)?;
                assert_eq!(bits(&compiled.call(&[&x])?[0])?, plain);
            }
            let mapped = transforms::vmap(f, std::slice::from_ref(&x), &[Some(0)], &[Some(0)])?;
            assert_eq!(bits(&mapped[0])?, plain);
        }
    }
    let flat = |x: &[Array]| Ok(vec![ops::sum(&ops::cummax(&x[0], false, true)?, false)?]);
    let (_, gradients) =
        transforms::value_and_grad(flat, &[0], &[ops::slice(&x, &[0, 0], &[2, 2], &[1, 1])?])?;
    assert_eq!(gradients[0].to_vec::<f32>()?, [4.0, 0.0, 0.0, 0.0]);
    Ok(())
}
