//! Graphs without checks: those that `unchecked` builds, and those of functions from files, which
//! get them when they are called.

#[path = "common/indices.rs"]
mod indices;
#[path = "common/numbers.rs"]
mod numbers;

use std::path::Path;

use indices::{indices, lazy};
use mlx_graft::export::{self, ImportedFunction};
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, index, ops, stream, transforms};
use numbers::numbers;

type Function = fn(&[Array]) -> Result<Vec<Array>>;

/// A function of an array, what else it takes, and indices; bad ones in place of the last, and which
/// of them is out of which length.
type Case = (&'static str, Function, Vec<Array>, Array, (i64, i64));

/// The function from a file, in which it is as MLX's own operations make it.
fn imported(path: &Path, f: Function, args: &[Array], shapeless: bool) -> ImportedFunction {
    // SAFETY: the trace computes nothing.
    #[allow(unsafe_code)]
    let exported =
        unsafe { index::unchecked(|| export::export_function(path, f, args, shapeless)) };
    exported.unwrap();
    export::import_function(path).unwrap()
}

/// What an evaluation fails with. On the thread that used MLX first, that may come with the next.
fn failure(results: Result<Vec<Array>>) -> Error {
    let evaluated = || {
        results?[0].eval()?;
        stream::synchronize()?;
        ops::exp(&Array::scalar(1.0_f32)?)?.eval()
    };
    evaluated().expect_err("an index out of range")
}

fn unchecked_builds_the_graph_of_mlx() {
    let index = lazy(&indices(&[1]));
    // SAFETY: the array has two rows.
    #[allow(unsafe_code)]
    let row = unsafe { index::unchecked(|| ops::take_axis(&numbers(&[2, 2]), &index, 0)) }.unwrap();
    assert_eq!(row.to_vec::<f32>().unwrap(), [2.0, 3.0]);
    // The checks are back.
    assert!(ops::take_axis(&numbers(&[2, 2]), &indices(&[2]), 0).is_err());
}

fn lookups() -> Vec<Case> {
    let x = || numbers(&[4, 3]);
    let two = || indices(&[1, -4]);
    let bad = || indices(&[1, 4]);
    vec![
        (
            "take",
            |v| Ok(vec![ops::take(&v[0], &v[1])?]),
            vec![x(), two()],
            indices(&[0, 12]),
            (12, 12),
        ),
        ("rows", |v| Ok(vec![ops::take_axis(&v[0], &v[1], 0)?]), vec![x(), two()], bad(), (4, 4)),
        (
            "computed",
            |v| Ok(vec![ops::take_axis(&v[0], &ops::multiply(&v[1], &Array::scalar(2)?)?, 0)?]),
            vec![x(), indices(&[1, -1])],
            indices(&[1, 3]),
            (6, 4),
        ),
        (
            "of indices",
            |v| {
                let second = ops::take(&v[1], &v[2])?;
                Ok(vec![ops::take_axis(&v[0], &second, 0)?])
            },
            vec![x(), two(), indices(&[0, 1])],
            indices(&[0, -3]),
            (-3, 2),
        ),
        (
            "along",
            |v| Ok(vec![ops::take_along_axis(&v[0], &v[1], 0)?]),
            vec![x(), ops::zeros(&[1, 3], Dtype::Int32).unwrap()],
            Array::from_slice(&[0, -5, 0], &[1, 3]).unwrap(),
            (-5, 4),
        ),
        (
            "slices",
            |v| Ok(vec![ops::gather(&v[0], &[&v[1]], &[0], &[2, 3])?]),
            vec![x(), indices(&[2, 0])],
            indices(&[0, 3]),
            (3, 4),
        ),
    ]
}

fn updates_and_products() -> Vec<Case> {
    let x = || numbers(&[4, 3]);
    vec![
        (
            "put",
            |v| Ok(vec![ops::put_along_axis(&v[0], &v[1], &Array::scalar(9.0_f32)?, 1)?]),
            vec![x(), ops::zeros(&[4, 1], Dtype::Int32).unwrap()],
            Array::from_slice(&[0, 0, 3, 0], &[4, 1]).unwrap(),
            (3, 3),
        ),
        (
            "added",
            |v| Ok(vec![ops::scatter_add_axis(&v[0], &v[1], &Array::scalar(9.0_f32)?, 1)?]),
            vec![x(), ops::zeros(&[4, 1], Dtype::Int32).unwrap()],
            Array::from_slice(&[0, 0, 3, 0], &[4, 1]).unwrap(),
            (3, 3),
        ),
        (
            "scattered",
            |v| Ok(vec![ops::scatter_max(&v[0], &v[2..4], &v[1], &[0, 1])?]),
            vec![x(), numbers(&[2, 1, 1]), indices(&[3, 0]), indices(&[2, 0])],
            indices(&[0, 3]),
            (3, 3),
        ),
        (
            "slices replaced",
            |v| Ok(vec![ops::scatter(&v[0], &v[2..3], &v[1], &[0])?]),
            vec![x(), numbers(&[1, 2, 3]), indices(&[2])],
            indices(&[3]),
            (3, 4),
        ),
        (
            "a slice",
            |v| Ok(vec![ops::slice_dynamic(&v[0], &v[1], &[0, 1], &[2, 2])?]),
            vec![x(), indices(&[2, 1])],
            indices(&[2, 2]),
            (2, 3),
        ),
        (
            "a slice replaced",
            |v| Ok(vec![ops::slice_update_dynamic(&v[0], &v[1], &v[2], &[0, 1])?]),
            vec![x(), numbers(&[2, 2]), indices(&[2, 1])],
            indices(&[-1, 1]),
            (-1, 4),
        ),
        (
            "matrices",
            |v| Ok(vec![ops::gather_mm(&v[0], &v[1], Some(&v[2]), Some(&v[3]), false)?]),
            vec![
                numbers(&[2, 1, 3]),
                numbers(&[3, 3, 2]),
                indices(&[0_u32, 1]),
                indices(&[2_u32, 0]),
            ],
            indices(&[0_u32, 3]),
            (3, 3),
        ),
        (
            "quantized matrices",
            |v| {
                let options = ops::GatherQmmOptions::default().biases(&v[3]).rhs_indices(&v[5]);
                Ok(vec![ops::gather_qmm(&v[0], &v[1], &v[2], &options.lhs_indices(&v[4]))?])
            },
            {
                let packed = ops::quantize(&numbers(&[3, 8, 64]), &ops::QuantizeOptions::default());
                let mut args = vec![numbers(&[2, 1, 64])];
                args.extend(packed.unwrap());
                args.extend([indices(&[0_u32, 1]), indices(&[2_u32, 0])]);
                args
            },
            indices(&[0_u32, 3]),
            (3, 3),
        ),
    ]
}

fn functions_from_files_check_their_indices(folder: &Path) {
    for (name, f, args, bad, wanted) in lookups().into_iter().chain(updates_and_products()) {
        let f_imported = imported(&folder.join("f.mlxfn"), f, &args, false);
        let found = f_imported.call(&args).unwrap();
        let own = f(&args).unwrap();
        assert_eq!(found[0].to_vec::<f32>().unwrap(), own[0].to_vec::<f32>().unwrap(), "{name}");
        let mut lazily: Vec<Array> = args.iter().map(lazy).collect();
        let found = f_imported.call(&lazily).unwrap();
        assert_eq!(found[0].to_vec::<f32>().unwrap(), own[0].to_vec::<f32>().unwrap(), "{name}");

        let mut args = args;
        let last = args.len() - 1;
        (lazily[last], args[last]) = (lazy(&bad), bad);
        for args in [&args, &lazily] {
            let error = failure(f_imported.call(args));
            let Error::Index { index, length, .. } = error else { panic!("{name}: {error}") };
            assert_eq!((index, length), wanted, "{name}");
        }
    }
}

fn shapeless_functions_check_the_lengths_they_are_called_with(folder: &Path) {
    let f: Function = |v| Ok(vec![ops::take_along_axis(&v[0], &v[1], 0)?]);
    let function = imported(&folder.join("f.mlxfn"), f, &[numbers(&[5]), indices(&[4])], true);
    let found = function.call(&[&numbers(&[9]), &indices(&[8, -9])]).unwrap();
    assert_eq!(found[0].to_vec::<f32>().unwrap(), [8.0, 0.0]);
    let error = failure(function.call(&[&numbers(&[3]), &indices(&[4])]));
    assert!(matches!(error, Error::Index { index: 4, length: 3, .. }), "{error}");

    let sum: Function = |v| Ok(vec![ops::add(&v[0], &v[1])?]);
    let inputs = [numbers(&[2, 1]), numbers(&[1, 3])];
    let function = imported(&folder.join("f.mlxfn"), sum, &inputs, true);
    assert_eq!(function.call(&inputs).unwrap()[0].shape(), [2, 3]);
    let long = |shape: &[i32]| ops::broadcast_to(&numbers(&[1]), shape).unwrap();
    let error = function.call(&[long(&[1 << 30, 1]), long(&[1, 1 << 30])]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
}

fn they_are_transformed_with_their_checks(folder: &Path) {
    let f: Function = |v| Ok(vec![ops::sum(&ops::square(&ops::take(&v[0], &v[1])?)?, false)?]);
    let args = [numbers(&[3]), indices(&[2, 2])];
    let function = imported(&folder.join("f.mlxfn"), f, &args, false);
    let gradient = transforms::grad(move |v| function.call(v), &[0], &args).unwrap();
    assert_eq!(gradient[0].to_vec::<f32>().unwrap(), [0.0, 0.0, 8.0]);
    let function = export::import_function(folder.join("f.mlxfn")).unwrap();
    let compiled = transforms::compile(move |v: &[Array]| function.call(v), false).unwrap();
    assert_eq!(compiled.call(&args).unwrap()[0].to_vec::<f32>().unwrap(), [8.0]);
    let error = failure(compiled.call(&[numbers(&[3]), indices(&[0, 3])]));
    assert!(matches!(error, Error::Index { index: 3, length: 3, .. }), "{error}");
}

/// MLX gives an imported function the first CPU stream of the process, which belongs to one thread.
#[test]
fn on_the_thread_of_the_first_stream() {
    let folder = tempfile::tempdir().unwrap();
    unchecked_builds_the_graph_of_mlx();
    functions_from_files_check_their_indices(folder.path());
    shapeless_functions_check_the_lengths_they_are_called_with(folder.path());
    they_are_transformed_with_their_checks(folder.path());
}
