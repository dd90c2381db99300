//! Functions cross files: what is exported comes back, what is broken is refused.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlx_graft::export::{self, Argument, Exporter, GraphPart, NodeNamer};
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, ops, transforms};

fn floats(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

type Named = BTreeMap<String, Array>;

fn scaled(x: &[Array], named: &Named) -> Result<Vec<Array>> {
    let product = ops::multiply(&x[0], &named["by"])?;
    Ok(vec![ops::exp(&product)?, product])
}

fn functions_of_named_inputs_and_all_their_outputs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.mlxfn");
    let (x, by) = (floats(&[0.5, 1.0]), floats(&[2.0, 3.0]));
    let named = Named::from([("by".to_string(), by.clone())]);
    export::export_function_kwargs(&path, scaled, &[&x], &named, false).unwrap();
    let imported = export::import_function(&path).unwrap();
    let found = imported.call_kwargs(&[&x], &named).unwrap();
    let wanted = scaled(std::slice::from_ref(&x), &named).unwrap();
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found.to_vec::<f32>().unwrap(), wanted.to_vec::<f32>().unwrap());
    }
    assert_eq!(imported.metadata().unwrap(), "");
    for error in [
        imported.call(&[&x]).unwrap_err(),
        imported.call(&[&x, &by]).unwrap_err(),
        imported.call_kwargs(&[floats(&[1.0])], &named).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

fn an_imported_function_has_gradients() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.mlxfn");
    let x = floats(&[1.0, 2.0, 3.0]);
    let squares = |x: &[Array]| Ok(vec![ops::sum(&ops::square(&x[0])?, false)?]);
    export::export_function(&path, squares, &[&x], true).unwrap();
    let imported = export::import_function(&path).unwrap();
    // Shapeless: of another length than the example.
    let y = floats(&[1.0, 2.0, 3.0, 4.0]);
    let gradients = transforms::grad(move |x| imported.call(x), &[0], &[&y]).unwrap();
    assert_eq!(gradients[0].to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0, 8.0]);
}

fn several_traces_and_metadata_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.mlxfn");
    let constant = floats(&[10.0]);
    let sum = move |x: &[Array], _: &Named| {
        Ok(vec![x.iter().try_fold(constant.clone(), |sum, x| ops::add(&sum, x))?])
    };
    let mut exporter = Exporter::with_kwargs(&path, sum, false, "three \"traces\"").unwrap();
    let one = floats(&[1.0]);
    let inputs = |count: usize| vec![one.clone(); count];
    for count in 1..=3 {
        exporter.call(&inputs(count)).unwrap();
    }
    let twice = exporter.call(&inputs(2)).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Runtime);
    assert!(!path.exists(), "not there before it is whole");
    exporter.close().unwrap();
    exporter.close().unwrap();
    assert!(exporter.call(&inputs(4)).unwrap_err().to_string().contains("closed"));
    let imported = export::import_function(&path).unwrap();
    assert_eq!(imported.metadata().unwrap(), "three \"traces\"");
    for count in 1..=3 {
        let found = imported.call(&inputs(count)).unwrap()[0].item::<f32>().unwrap();
        assert_eq!(found as usize, 10 + count);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn a_failure_comes_out_as_itself_and_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.mlxfn");
    fs::write(&path, "old").unwrap();
    let x = floats(&[1.0]);
    let fails = |_: &[Array]| Err(Error::closure("no such luck"));
    let error = export::export_function(&path, fails, &[&x], false).unwrap_err();
    assert_eq!(error.to_string(), "no such luck");
    let panics = |_: &[Array]| -> Result<Vec<Array>> { panic!("a bug") };
    let caught =
        catch_unwind(AssertUnwindSafe(|| export::export_function(&path, panics, &[&x], false)));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"a bug"));
    let second_fails = |x: &[Array]| match x.len() {
        1 => Ok(vec![x[0].clone()]),
        _ => Err(Error::closure("two")),
    };
    let mut exporter = Exporter::new(&path, second_fails, false).unwrap();
    exporter.call(&[&x]).unwrap();
    assert_eq!(exporter.call(&[&x, &x]).unwrap_err().to_string(), "two");
    // MLX would read out of bounds here.
    assert!(exporter.call(&[&x, &x]).is_err());
    drop(exporter);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // An error between two traces, by which `?` drops the exporter.
    let abandoned = || -> Result<()> {
        let mut exporter = Exporter::new(&path, second_fails, false)?;
        exporter.call(&[&x])?;
        exporter.call(&[ops::reshape(&x, &[7])?])?;
        exporter.close()
    };
    assert!(abandoned().is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let second_panics = |x: &[Array]| match x.len() {
        1 => Ok(vec![x[0].clone()]),
        _ => panic!("a bug"),
    };
    let mut exporter = Exporter::new(&path, second_panics, false).unwrap();
    exporter.call(&[&x]).unwrap();
    let panicking = catch_unwind(AssertUnwindSafe(|| exporter.call(&[&x, &x])));
    assert_eq!(panicking.unwrap_err().downcast_ref::<&str>(), Some(&"a bug"));
    for inputs in [&[&x, &x][..], &[&x, &x, &x]] {
        assert!(exporter.call(inputs).unwrap_err().to_string().contains("closed"));
    }
    exporter.close().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let missing = Exporter::new(folder.path().join("no/f.mlxfn"), second_fails, false);
    assert!(matches!(missing, Err(Error::File { .. })));
}

fn files_that_are_no_functions_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.mlxfn");
    let x = floats(&[1.0, 2.0]);
    export::export_function(&path, |x| Ok(vec![ops::exp(&x[0])?]), &[&x], false).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = export::import_function(&path).err().expect("a whole file");
        assert!(matches!(error, Error::File { .. }));
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    for content in [&b"not a function, but long enough to have a header"[..], &[0xff; 64], &[0; 64]]
    {
        fs::write(&path, content).unwrap();
        assert!(export::import_function(&path).is_err());
    }
    assert!(export::import_function(folder.path()).is_err());
    assert!(export::import_function(folder.path().join("missing")).is_err());
}

fn the_graph_comes_part_by_part() {
    let constant = floats(&[5.0, 6.0]);
    let named = Named::from([("by".to_string(), floats(&[2.0, 3.0]))]);
    let f = move |x: &[Array], named: &Named| {
        let sum = ops::add(&ops::multiply(&x[0], &named["by"])?, &constant)?;
        Ok(vec![ops::astype(&ops::transpose(&ops::reshape(&sum, &[1, 2])?)?, Dtype::Int32)?])
    };
    let mut parts = Vec::new();
    let keep = |part| {
        parts.push(part);
        Ok(())
    };
    export::export_function_with(keep, f.clone(), &[floats(&[1.0, 2.0])], &named, false).unwrap();
    let [
        GraphPart::Inputs(inputs),
        GraphPart::KeywordInputs(keywords),
        GraphPart::Outputs(outputs),
        GraphPart::Constants(constants),
        primitives @ ..,
    ] = parts.as_slice()
    else {
        panic!("{parts:?}")
    };
    assert_eq!(inputs.len(), 2);
    assert_eq!(keywords, &[("by".to_string(), inputs[1].name.clone())]);
    assert_eq!((&outputs[0].shape[..], outputs[0].dtype), (&[2, 1][..], Dtype::Int32));
    assert_eq!(constants[0].1.to_vec::<f32>().unwrap(), [5.0, 6.0]);
    let names: Vec<_> = primitives
        .iter()
        .map(|part| match part {
            GraphPart::Primitive { name, arguments, .. } => (name.as_str(), arguments.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(names.contains(&("Multiply", vec![])));
    assert!(names.contains(&("AsType", vec![Argument::Dtype(Dtype::Int32)])));
    let axes = Argument::List(vec![Argument::Int(1), Argument::Int(0)]);
    assert!(names.contains(&("Transpose", vec![axes])), "{names:?}");
    let refuse = |_| Err(Error::closure("enough"));
    let x = [floats(&[1.0, 2.0])];
    let error = export::export_function_with(refuse, f, &x, &named, false).unwrap_err();
    assert_eq!(error.to_string(), "enough");
}

fn graphs_are_drawn_with_names() {
    let (x, y) = (floats(&[1.0]), floats(&[2.0]));
    let sum = ops::add(&x, &y).unwrap();
    let mut namer = NodeNamer::new();
    namer.set_name(&x, "the input").unwrap();
    let text = export::print_graph(&mut namer, &[&sum]).unwrap();
    assert!(text.starts_with("Inputs: the input [(1), float32]"), "{text}");
    let dot = export::export_to_dot(&mut namer, &[&sum]).unwrap();
    assert!(dot.starts_with("digraph {") && dot.ends_with('}'));
    assert!(dot.contains("\"the input\"") && dot.contains("label =\"Add\""), "{dot}");
    assert!(namer.set_name(&x, "a\0b").is_err());
}

/// MLX gives an imported function the first CPU stream of the process, which belongs to one thread.
#[test]
fn on_the_thread_of_the_first_stream() {
    functions_of_named_inputs_and_all_their_outputs();
    an_imported_function_has_gradients();
    several_traces_and_metadata_in_one_file();
    a_failure_comes_out_as_itself_and_leaves_the_old_file();
    files_that_are_no_functions_are_refused_by_name();
    the_graph_comes_part_by_part();
    graphs_are_drawn_with_names();
}
