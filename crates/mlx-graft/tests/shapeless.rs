//! A shapeless trace takes the shapes that its operations can take, and no others: MLX asks it for
//! the shapes of outputs only, and its kernels would read and write beyond their memory.

use std::collections::BTreeMap;
use std::rc::Rc;

use mlx_graft::transforms::{self, Traces};
use mlx_graft::{Array, Dtype, ErrorKind, Result, export, fast, ops};

type Function = fn(&[Array]) -> Result<Vec<Array>>;
type Shapes = &'static [&'static [i32]];

/// A function, lists of shapes that fit it, and some that do not.
type Case = (&'static str, Function, &'static [Shapes], &'static [Shapes]);

fn one(result: Result<Array>) -> Result<Vec<Array>> {
    Ok(vec![result?])
}

fn inputs(shapes: Shapes) -> Vec<Array> {
    let make = |(i, shape): (usize, &&[i32])| {
        let size: i32 = shape.iter().product();
        let values = ops::arange(0.0, f64::from(size), 1.0, Dtype::Float32)?;
        ops::reshape(&ops::multiply(&values, &Array::scalar(0.1 + i as f32)?)?, shape)
    };
    shapes.iter().enumerate().map(make).collect::<Result<_>>().unwrap()
}

fn quantized(x: &[Array]) -> Result<Vec<Array>> {
    let options = ops::QuantizedMatmulOptions::default().biases(&x[3]).group_size(32).bits(8);
    let w = ops::astype(&x[1], Dtype::Uint32)?;
    one(ops::quantized_matmul(&x[0], &w, &x[2], &options))
}

/// Products with the first expert.
fn experts(x: &[Array]) -> Result<Vec<Array>> {
    let numbers = ops::astype(&column(&x[2])?, Dtype::Uint32)?;
    one(ops::gather_mm(&x[0], &x[1], Some(&numbers), Some(&numbers), false))
}

fn quantized_experts(x: &[Array]) -> Result<Vec<Array>> {
    let w = ops::astype(&x[1], Dtype::Uint32)?;
    let numbers = ops::astype(&column(&x[4])?, Dtype::Uint32)?;
    let options = ops::GatherQmmOptions::default().biases(&x[3]).group_size(32).bits(8);
    let options = options.lhs_indices(&numbers).rhs_indices(&numbers);
    one(ops::gather_qmm(&x[0], &w, &x[2], &options))
}

fn column(x: &Array) -> Result<Array> {
    ops::zeros_like(&ops::astype(x, Dtype::Int32)?)
}

const CASES: &[Case] = &[
    (
        "add",
        |x| one(ops::add(&x[0], &x[1])),
        &[&[&[2, 4], &[2, 4]], &[&[3, 1], &[3, 1]], &[&[2, 4], &[1, 4]], &[&[2, 1], &[2, 4]]],
        &[&[&[2, 4], &[2, 5]], &[&[2, 4000], &[2, 4]]],
    ),
    // Operations that are fused broadcast.
    (
        "fused",
        |x| one(ops::multiply(&ops::exp(&ops::add(&x[0], &x[1])?)?, &x[0])),
        &[&[&[2, 4], &[1, 4]], &[&[3, 2], &[1, 2]]],
        &[&[&[2, 4], &[2, 5]], &[&[2, 4000], &[1, 4]], &[&[2, 4], &[3, 4]]],
    ),
    (
        "where",
        |x| one(ops::where_(&x[0], &x[1], &x[0])),
        &[&[&[2, 3], &[2, 3]], &[&[5, 1], &[5, 1]]],
        &[&[&[2, 3], &[2, 3000]], &[&[2, 3000], &[2, 3]]],
    ),
    (
        "matmul",
        |x| one(ops::matmul(&x[0], &x[1])),
        &[&[&[2, 3], &[3, 4]], &[&[5, 1], &[1, 7]]],
        &[&[&[2, 3000], &[3, 4]], &[&[2, 3], &[4, 4]]],
    ),
    (
        "matmul of stacks",
        |x| one(ops::matmul(&x[0], &x[1])),
        &[&[&[2, 3, 3], &[2, 3, 4]], &[&[1, 5, 2], &[1, 2, 1]]],
        &[&[&[2000, 3, 3], &[2, 3, 4]], &[&[2, 3, 3], &[2, 4, 4]]],
    ),
    (
        "addmm",
        |x| one(ops::addmm(&x[0], &x[1], &x[2], 1.0, 1.0)),
        &[&[&[2, 4], &[2, 3], &[3, 4]], &[&[5, 1], &[5, 2], &[2, 1]]],
        &[&[&[2, 4], &[2000, 3], &[3, 4000]], &[&[2, 4], &[2, 3], &[2, 4]]],
    ),
    (
        "quantized_matmul",
        quantized,
        &[&[&[2, 64], &[8, 16], &[8, 2], &[8, 2]], &[&[1, 32], &[5, 8], &[5, 1], &[5, 1]]],
        &[
            &[&[2, 64], &[4000, 16], &[8, 2], &[8, 2]],
            &[&[2, 64], &[8, 16], &[8, 2], &[4, 2]],
            &[&[2, 64], &[8, 16], &[8, 1], &[8, 1]],
            &[&[2, 32], &[8, 16], &[8, 2], &[8, 2]],
        ],
    ),
    (
        "gather_mm",
        experts,
        &[&[&[2, 3, 4], &[2, 4, 5], &[2]], &[&[2, 7, 1], &[2, 1, 6], &[1]]],
        &[&[&[2, 3, 4000], &[2, 4, 5], &[2]]],
    ),
    (
        "gather_qmm",
        quantized_experts,
        &[
            &[&[2, 3, 64], &[2, 8, 16], &[2, 8, 2], &[2, 8, 2], &[2]],
            &[&[2, 1, 32], &[2, 5, 8], &[2, 5, 1], &[2, 5, 1], &[1]],
        ],
        &[
            &[&[2, 3, 32], &[2, 8, 16], &[2, 8, 2], &[2, 8, 2], &[2]],
            &[&[2, 3, 64], &[2, 4000, 16], &[2, 8, 2], &[2, 8, 2], &[2]],
        ],
    ),
    (
        "concatenate",
        |x| one(ops::concatenate_axis(x, 0)),
        &[&[&[2, 3], &[3, 3]], &[&[1, 5], &[4, 5]]],
        &[&[&[2, 3], &[3, 3000]], &[&[2, 3000], &[3, 3]]],
    ),
    (
        "slice_update",
        |x| one(ops::slice_update(&x[0], &x[1], &[1], &[5], &[2])),
        &[&[&[10], &[2]], &[&[6], &[2]]],
        &[&[&[3], &[2]], &[&[10], &[4000]]],
    ),
    (
        "take_along_axis",
        |x| one(ops::take_along_axis(&x[0], &column(&x[1])?, 1)),
        &[&[&[4, 2], &[4, 3]], &[&[1, 5], &[1, 1]]],
        &[&[&[4, 2], &[4000, 3]]],
    ),
    (
        "put_along_axis",
        |x| one(ops::put_along_axis(&x[0], &column(&x[1])?, &x[1], 1)),
        &[&[&[4, 2], &[4, 1]], &[&[1, 5], &[1, 1]]],
        &[&[&[4, 2], &[4000, 1]]],
    ),
    (
        "conv1d",
        |x| one(ops::conv1d(&x[0], &x[1], &ops::Conv1dOptions::default())),
        &[&[&[1, 5, 3], &[2, 3, 3]], &[&[2, 7, 1], &[1, 2, 1]]],
        &[&[&[1, 5, 3], &[2, 3, 5000]]],
    ),
    ("squeeze", |x| one(ops::squeeze_axis(&x[0], 0)), &[&[&[1, 3]], &[&[1, 7]]], &[&[&[5, 3]]]),
    (
        "partition",
        |x| one(ops::partition_axis(&x[0], 3, -1)),
        &[&[&[2, 5]], &[&[1, 4]]],
        &[&[&[2, 3]]],
    ),
    (
        "max",
        |x| one(ops::max_axis(&x[0], 0, false)),
        &[&[&[2, 5]], &[&[4, 1]]],
        &[&[&[0, 3]], &[&[1, 4]]],
    ),
    ("sum", |x| one(ops::sum(&x[0], false)), &[&[&[2, 5]], &[&[1, 1]]], &[]),
    (
        "softmax",
        |x| one(ops::softmax_axis(&ops::matmul(&x[0], &ops::transpose(&x[0])?)?, -1, false)),
        &[&[&[2, 5]], &[&[7, 1]]],
        &[],
    ),
    (
        "rms_norm",
        |x| one(fast::rms_norm(&x[0], Some(&x[1]), 1e-5)),
        &[&[&[2, 3], &[3]], &[&[5, 8], &[8]]],
        &[&[&[2, 3000], &[3]]],
    ),
];

fn assert_refused(result: Result<Vec<Array>>, what: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error:?}");
    assert!(error.to_string().contains("shapes"), "{what}: {error}");
}

#[test]
fn shapes_that_fit_are_taken_and_others_refused() {
    for (name, f, fit, wrong) in CASES {
        let compiled = transforms::compile(f, true).unwrap();
        for shapes in *fit {
            let x = inputs(shapes);
            let (found, wanted) = (&compiled.call(&x).unwrap()[0], &f(&x).unwrap()[0]);
            assert_eq!(found.shape(), wanted.shape(), "{name}");
            let close = ops::allclose(found, wanted, 1e-5, 1e-6, false).unwrap();
            assert!(close.item::<bool>().unwrap(), "{name} of {shapes:?}");
        }
        for shapes in *wrong {
            assert_refused(compiled.call(&inputs(shapes)), &format!("{name} of {shapes:?}"));
        }
    }
}

#[test]
fn every_way_of_compiling_checks() {
    let f: Function = |x| one(ops::matmul(&x[0], &x[1]));
    let (fit, wrong) = (inputs(&[&[2, 3], &[3, 4]]), inputs(&[&[2, 3000], &[3, 4]]));
    let closure = transforms::compile_closure(&mlx_graft::Closure::new(f), true).unwrap();
    closure.call(&fit).unwrap();
    assert_refused(closure.call(&wrong), "compile_closure");
    let traces = Rc::new(Traces::new());
    let call = |x: &[Array]| Ok(traces.call(move |x| Ok((f(x)?, ())), x, true, &[])?.0);
    call(&fit).unwrap();
    assert_refused(call(&wrong), "traces");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.mlxfn");
    export::export_function(&file, f, &fit, true).unwrap();
    let imported = export::import_function(&file).unwrap();
    let found = imported.call(&inputs(&[&[5, 1], &[1, 2]])).unwrap();
    assert_eq!(found[0].shape(), [5, 2]);
    assert_refused(imported.call(&wrong), "import_function");
    assert_refused(imported.call_kwargs(&wrong, &BTreeMap::new()), "with keyword arguments");
}

#[test]
fn what_runs_as_it_is_is_not_a_trace() {
    let f: Function = |x| one(fast::rms_norm(&ops::divmod(&x[0], &x[1])?[0], None, 1e-5));
    let compiled = transforms::compile(f, true).unwrap();
    let slope = transforms::jvp(
        move |x| compiled.call(x),
        &inputs(&[&[2, 4], &[1, 4]]),
        &inputs(&[&[2, 4], &[1, 4]]),
    );
    assert_eq!(slope.unwrap().0[0].shape(), [2, 4]);
}
