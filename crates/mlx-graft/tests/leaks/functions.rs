//! Functions with rules of their own, functions that are exported, and functions that fail inside
//! other transformations.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::OnceLock;

use mlx_graft::closure::{CustomJvp, CustomVjp, CustomVmap};
use mlx_graft::export::{self, Exporter};
use mlx_graft::transforms::{self, CustomFunction};
use mlx_graft::{Array, ClosureKwargs, Error, Result, ops};

use super::{Round, x};

pub const ROUNDS: &[Round] = &[
    ("closures of rules", rules),
    ("custom functions", custom),
    ("custom functions whose rules fail", failing_custom),
    ("errors at each depth", errors_at_each_depth),
    ("panics at each depth", panics_at_each_depth),
    ("imported functions", imported),
    ("functions exported to a callback", exported_to_a_callback),
    ("exports that fail", failing_exports),
];

/// These write files, and each waits for the disk.
pub const SLOW: &[Round] = &[("exported functions", exported)];

fn squares(inputs: &[Array]) -> Result<Vec<Array>> {
    Ok(vec![ops::square(&inputs[0])?])
}

fn first_square(inputs: &[Array], _: &BTreeMap<String, Array>) -> Result<Vec<Array>> {
    squares(inputs)
}

fn failure() -> Error {
    Error::invalid_argument("test", "as planned")
}

fn rules() -> Result<()> {
    let x = [x()?];
    CustomVjp::new(|_, cotangents, _| Ok(cotangents.to_vec())).clone().call(&x, &x, &x)?;
    CustomJvp::new(|_, tangents, _| Ok(tangents.to_vec())).clone().call(&x, &x, &[0])?;
    CustomVmap::new(|inputs, axes| Ok((inputs.to_vec(), axes.to_vec())))
        .clone()
        .call(&x, &[Some(0)])?;
    ClosureKwargs::new(first_square).clone().call(&x, &BTreeMap::new())?;
    Ok(())
}

/// The square with all three rules; the first array that each sees is captured by the next.
fn with_rules() -> Result<CustomFunction> {
    let two = Array::scalar(2.0_f32)?;
    Ok(CustomFunction::new(squares)
        .vjp({
            let two = two.clone();
            move |x, dy, _| Ok(vec![ops::multiply(&ops::multiply(&x[0], &two)?, &dy[0])?])
        })
        .jvp(move |x, dx, _| Ok(vec![ops::multiply(&ops::multiply(&x[0], &two)?, &dx[0])?]))
        .vmap(|x, axes| Ok((squares(x)?, axes.to_vec()))))
}

fn custom() -> Result<()> {
    let (x, function) = ([x()?], with_rules()?);
    let call = move |inputs: &[Array]| function.call(inputs);
    transforms::vjp(call.clone(), &x, &x)?.1[0].eval()?;
    transforms::jvp(call.clone(), &x, &x)?.1[0].eval()?;
    transforms::vmap(call, &x, &[Some(0)], &[Some(0)])?[0].eval()?;
    let reversed = transforms::custom_vjp(squares, |_, dy, _| Ok(vec![ops::negative(&dy[0])?]))?;
    transforms::vjp(move |inputs: &[Array]| reversed.call(inputs), &x, &x)?.1[0].eval()
}

fn failing_custom() -> Result<()> {
    let x = [x()?];
    let function = CustomFunction::new(squares)
        .vjp(|_, _, _| Err(failure()))
        .jvp(|_, _, _| Err(failure()))
        .vmap(|_, _| Ok((Vec::new(), Vec::new())));
    let call = move |inputs: &[Array]| function.call(inputs);
    assert!(transforms::vjp(call.clone(), &x, &x).is_err());
    assert!(transforms::jvp(call.clone(), &x, &x).is_err());
    assert!(transforms::vmap(call, &x, &[Some(0)], &[Some(0)]).is_err());
    Ok(())
}

/// A function that runs inside as many transformations as `depth` says.
fn inside(depth: usize, leaf: fn() -> Error, inputs: &[Array]) -> Result<Vec<Array>> {
    // Something is on the way at each depth when the innermost one fails.
    let inputs = [ops::square(&inputs[0])?];
    if depth == 0 {
        return Err(leaf());
    }
    let inner = move |inputs: &[Array]| inside(depth - 1, leaf, inputs);
    match depth % 5 {
        0 => transforms::grad(inner, &[0], &inputs),
        1 => transforms::vmap(inner, &inputs, &[Some(0)], &[Some(0)]),
        2 => transforms::compile(inner, false)?.call(&inputs),
        3 => transforms::checkpoint(inner)?.call(&inputs),
        _ => CustomFunction::new(inner).vjp(|_, dy, _| Ok(dy.to_vec())).call(&inputs),
    }
}

const DEPTH: usize = 5;

fn errors_at_each_depth() -> Result<()> {
    let x = [x()?];
    for depth in 0..=DEPTH {
        assert!(inside(depth, failure, &x).is_err());
    }
    Ok(())
}

fn panics_at_each_depth() -> Result<()> {
    let x = [x()?];
    for depth in 0..=DEPTH {
        let run = || inside(depth, || panic!("as planned"), &x);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
    Ok(())
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("leaks-{}-{name}", std::process::id()))
}

fn exported() -> Result<()> {
    let (path, x) = (file("exported.mlxfn"), x()?);
    export::export_function(&path, squares, &[&x], false)?;
    let mut exporter = Exporter::with_kwargs(&path, first_square, true, "metadata")?;
    exporter.call(&[&x])?;
    exporter.call_kwargs(&[&x], &BTreeMap::from([("w".to_owned(), x.clone())]))?;
    exporter.close()?;
    std::fs::remove_file(path).expect("the file was written");
    Ok(())
}

fn imported() -> Result<()> {
    static WRITTEN: OnceLock<PathBuf> = OnceLock::new();
    let path = WRITTEN.get_or_init(|| {
        let (path, x) = (file("imported.mlxfn"), x().expect("host data"));
        export::export_function(&path, squares, &[&x], false).expect("it was exported");
        path
    });
    let function = export::import_function(path)?;
    function.call(&[x()?])?[0].eval()?;
    assert!(function.call(&[Array::scalar(1_i32)?]).is_err());
    Ok(())
}

fn exported_to_a_callback() -> Result<()> {
    let (x, mut parts) = (x()?, 0);
    let callback = |_| {
        parts += 1;
        Ok(())
    };
    export::export_function_with(callback, first_square, &[&x], &BTreeMap::new(), false)?;
    assert!(parts > 0);
    let failing = |_| Err(failure());
    assert!(
        export::export_function_with(failing, first_square, &[&x], &BTreeMap::new(), false)
            .is_err()
    );
    Ok(())
}

fn failing_exports() -> Result<()> {
    let x = x()?;
    let fails = |_: &[Array]| Err(failure());
    assert!(export::export_function(file("failing.mlxfn"), fails, &[&x], false).is_err());
    let mut exporter = Exporter::new(file("failing.mlxfn"), fails, false)?;
    assert!(exporter.call(&[&x]).is_err());
    assert!(export::import_function(file("missing.mlxfn")).is_err());
    Ok(())
}
