//! Transformations against closed forms: custom rules, trees, compiled state, nesting, and what
//! fails inside.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use mlx_graft::closure::{CustomJvp, CustomVjp, CustomVmap};
use mlx_graft::transforms::trees::{self, Wrt};
use mlx_graft::transforms::{self, CustomFunction, Traces};
use mlx_graft::{
    Array, Closure, ClosureKwargs, Error, ErrorKind, Result, Tree, ValueAndGrad, ops, stream,
};

fn vector(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

fn scalar(value: f32) -> Array {
    Array::scalar(value).unwrap()
}

fn host(array: &Array) -> Vec<f32> {
    array.to_vec().unwrap()
}

fn sum_of_squares(x: &[Array]) -> Result<Vec<Array>> {
    Ok(vec![ops::sum(&ops::square(&x[0])?, false)?])
}

/// `x * y` with rules that give recognisable multiples of the true products.
fn product() -> CustomFunction {
    CustomFunction::new(|v| Ok(vec![ops::multiply(&v[0], &v[1])?]))
        .vjp(|v, dy, _| {
            let ten = scalar(10.0);
            let times = |a: &Array| ops::multiply(&ops::multiply(&dy[0], a)?, &ten);
            Ok(vec![times(&v[1])?, times(&v[0])?])
        })
        .jvp(|v, tangents, argnums| {
            let mut out = ops::zeros_like(&v[0])?;
            for (tangent, n) in tangents.iter().zip(argnums) {
                out = ops::add(&out, &ops::multiply(tangent, &v[1 - n])?)?;
            }
            Ok(vec![ops::multiply(&out, &scalar(100.0))?])
        })
        .vmap(|v, axes| {
            assert_eq!(axes, [Some(0), None]);
            let product = ops::multiply(&v[0], &v[1])?;
            Ok((vec![ops::multiply(&product, &scalar(1000.0))?], vec![Some(0)]))
        })
}

#[test]
fn rules_of_a_custom_function_are_used() {
    let (x, y) = (scalar(3.0), scalar(5.0));
    let f = product();
    assert_eq!(host(&f.call(&[&x, &y]).unwrap()[0]), [15.0]);
    let f = {
        let f = product();
        move |v: &[Array]| f.call(v)
    };
    let grads = transforms::grad(f.clone(), &[0, 1], &[&x, &y]).unwrap();
    assert_eq!((host(&grads[0]), host(&grads[1])), (vec![50.0], vec![30.0]));
    let one = scalar(1.0);
    let (_, products) = transforms::jvp(f.clone(), &[&x, &y], &[&one, &one]).unwrap();
    assert_eq!(host(&products[0]), [800.0]);
    let rows = vector(&[1.0, 2.0]);
    let mapped = transforms::vmap(f, &[&rows, &y], &[Some(0), None], &[Some(0)]).unwrap();
    assert_eq!(host(&mapped[0]), [5000.0, 10000.0]);
}

#[test]
fn a_rule_not_given_is_derived() {
    let f = CustomFunction::new(|x| Ok(vec![ops::square(&x[0])?]))
        .vmap(|x, axes| Ok((vec![ops::square(&x[0])?], vec![axes[0]])));
    let g = f.clone();
    let slope = transforms::grad(move |x| g.call(x), &[0], &[scalar(3.0)]).unwrap();
    assert_eq!(host(&slope[0]), [6.0]);
    let none = CustomFunction::new(|x| Ok(vec![ops::square(&x[0])?]));
    let slope = transforms::grad(move |x| none.call(x), &[0], &[scalar(3.0)]).unwrap();
    assert_eq!(host(&slope[0]), [6.0]);
    let mapped =
        transforms::vmap(move |x| f.call(x), &[vector(&[1.0, 2.0])], &[Some(0)], &[Some(0)]);
    assert_eq!(host(&mapped.unwrap()[0]), [1.0, 4.0]);
}

#[test]
fn rules_with_a_wrong_number_of_results_are_errors() {
    let identity = |x: &[Array]| Ok(x.to_vec());
    let x = scalar(3.0);
    let short = CustomFunction::new(identity).vjp(|_, _, _| Ok(vec![]));
    let error = transforms::grad(move |x| short.call(x), &[0], &[&x]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("1 arrays, not 0"), "{error}");
    let long = CustomFunction::new(identity)
        .jvp(|_, tangents, _| Ok(vec![tangents[0].clone(), tangents[0].clone()]));
    assert!(transforms::jvp(move |x| long.call(x), &[&x], &[&x]).is_err());
    let wide = CustomFunction::new(identity).vmap(|x, axes| Ok((x.to_vec(), axes.repeat(2))));
    let rows = vector(&[1.0, 2.0]);
    assert!(transforms::vmap(move |x| wide.call(x), &[rows], &[Some(0)], &[Some(0)]).is_err());
    let empty = CustomFunction::new(|_| Ok(vec![])).vjp(|_, _, _| Ok(vec![]));
    assert_eq!(empty.call(&[&x]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(transforms::checkpoint(|_| Ok(vec![])).unwrap().call(&[&x]).is_err());
    assert!(transforms::value_and_grad(|_| Ok(vec![]), &[0], &[&x]).is_ok());
}

#[test]
fn transformations_nest() {
    // d/dx of the sum over a batch of x³, within a compiled function: 3x².
    let cube = |x: &[Array]| Ok(vec![ops::multiply(&ops::square(&x[0])?, &x[0])?]);
    let slope = move |x: &[Array]| transforms::grad(cube, &[0], x);
    let compiled =
        transforms::compile(move |x| transforms::vmap(slope, x, &[Some(0)], &[Some(0)]), false)
            .unwrap();
    let x = vector(&[1.0, 2.0, 3.0]);
    for _ in 0..2 {
        assert_eq!(host(&compiled.call(&[&x]).unwrap()[0]), [3.0, 12.0, 27.0]);
    }
    // The gradient of a compiled function, of a checkpoint.
    let inner = transforms::checkpoint(cube).unwrap();
    let inner = transforms::compile_closure(&inner, false).unwrap();
    let total = move |x: &[Array]| Ok(vec![ops::sum(&inner.call(x)?[0], false)?]);
    assert_eq!(host(&transforms::grad(total, &[0], &[&x]).unwrap()[0]), [3.0, 12.0, 27.0]);
}

#[test]
fn gradients_of_trees_by_number_and_name() {
    let f = |args: &[Tree], named: &BTreeMap<String, Tree>| {
        let (x, w) = (&args[1].leaves()[0], named["w"].leaves());
        let loss = ops::sum(&ops::multiply(&ops::multiply(x, &w[0])?, &w[1])?, false)?;
        Ok((loss.clone(), Tree::from(vec![loss])))
    };
    let args = [Tree::from(scalar(0.0)), Tree::from(vec![vector(&[1.0, 2.0])])];
    let w = Tree::from(vec![vector(&[3.0, 4.0]), vector(&[5.0, 6.0])]);
    let named = BTreeMap::from([("unused".to_string(), Tree::from(scalar(0.0))), ("w".into(), w)]);
    let wrt = Wrt { argnums: &[1, 0], argnames: &["w"] };
    let found = trees::value_and_grad(f, wrt, &args, &named).unwrap();
    assert_eq!(host(&found.loss), [63.0]);
    assert_eq!(host(&found.rest.leaves()[0]), [63.0]);
    assert_eq!(host(&found.args[0].leaves()[0]), [15.0, 24.0]);
    assert_eq!(host(&found.args[1].leaves()[0]), [0.0]);
    assert_eq!(found.kwargs.keys().collect::<Vec<_>>(), ["w"]);
    let grads = found.kwargs["w"].leaves();
    assert_eq!((host(&grads[0]), host(&grads[1])), (vec![5.0, 12.0], vec![3.0, 8.0]));
    for wrt in [Wrt { argnums: &[2], argnames: &[] }, Wrt { argnums: &[], argnames: &["v"] }] {
        let error = trees::value_and_grad(f, wrt, &args, &named).unwrap_err();
        assert!(error.to_string().contains("no argument"), "{error}");
    }
    let none = Wrt { argnums: &[], argnames: &[] };
    assert!(trees::value_and_grad(f, none, &args, &named).is_err());
}

#[test]
fn a_compiled_function_traces_once_for_each_structure() {
    let runs = Rc::new(Cell::new(0));
    let counted = runs.clone();
    let step = trees::compile(
        move |x, state| {
            counted.set(counted.get() + 1);
            let sum = ops::add(&x.leaves()[0], &state.leaves()[0])?;
            *state = Tree::from(BTreeMap::from([("sum".to_string(), sum.clone())]));
            Ok(Tree::from(sum))
        },
        false,
    );
    let one = Tree::from(scalar(1.0));
    let mut state = Tree::from(vec![scalar(0.0)]);
    for expected in [1.0, 2.0, 3.0, 4.0] {
        let y = step.call(&one, &mut state).unwrap();
        assert_eq!(host(&y.leaves()[0]), [expected]);
        assert_eq!(state.flatten()[0].0, "sum");
    }
    assert_eq!(runs.get(), 2, "one trace for the list, one for the map");
    let failing = trees::compile(
        |_, state: &mut Tree| {
            *state = Tree::from(scalar(9.0));
            Err(Error::closure("no"))
        },
        false,
    );
    assert!(failing.call(&one, &mut state).is_err());
    assert_eq!(host(&state.leaves()[0]), [4.0], "a failure leaves the state");
}

#[test]
fn a_shapeless_trace_serves_other_shapes() {
    let runs = Rc::new(Cell::new(0));
    let counted = runs.clone();
    let f = transforms::compile(
        move |x| {
            counted.set(counted.get() + 1);
            Ok(vec![ops::square(&x[0])?])
        },
        true,
    )
    .unwrap();
    assert_eq!(host(&f.call(&[vector(&[2.0])]).unwrap()[0]), [4.0]);
    assert_eq!(host(&f.call(&[vector(&[2.0, 3.0])]).unwrap()[0]), [4.0, 9.0]);
    assert_eq!(runs.get(), 1);
    transforms::clear_compile_cache().unwrap();
    f.call(&[vector(&[2.0])]).unwrap();
    assert_eq!(runs.get(), 2);
}

#[test]
fn constants_and_what_a_trace_returned() {
    let traces = Traces::new();
    let scale = |by: u64| {
        let f = move |x: &[Array]| Ok((vec![ops::multiply(&x[0], &scalar(by as f32))?], by));
        let (y, extra) = traces.call(f, &[scalar(2.0)], false, &[by]).unwrap();
        (y[0].item::<f32>().unwrap(), *extra)
    };
    assert_eq!([scale(3), scale(4), scale(3)], [(6.0, 3), (8.0, 4), (6.0, 3)]);
    let failing = |_: &[Array]| Err::<(Vec<Array>, ()), _>(Error::closure("no"));
    assert!(traces.call(failing, &[scalar(2.0)], false, &[]).is_err());
}

#[test]
fn closures_with_and_without_captures() {
    let by = scalar(3.0);
    let scaled = move |x: &[Array], named: &BTreeMap<String, Array>| {
        Ok(vec![ops::multiply(&ops::multiply(&x[0], &named["by"])?, &by)?])
    };
    let named = BTreeMap::from([("by".to_string(), scalar(5.0))]);
    let f = ClosureKwargs::new(scaled).clone();
    assert_eq!(host(&f.call(&[scalar(2.0)], &named).unwrap()[0]), [30.0]);
    let plain = ClosureKwargs::new(|_, named| Ok(named.values().cloned().collect()));
    assert_eq!(host(&plain.call(&[scalar(2.0)], &named).unwrap()[0]), [5.0]);
    let zero = BTreeMap::from([("a\0b".to_string(), scalar(5.0))]);
    assert!(plain.call(&[scalar(2.0)], &zero).is_err());

    let captured = vector(&[7.0]);
    let fixed = captured.clone();
    let values = ValueAndGrad::from_fn(move |x| Ok((x.to_vec(), vec![fixed.clone()]))).clone();
    assert_eq!(host(&values.call(&[scalar(2.0)]).unwrap().1[0]), [7.0]);
    let vjp = CustomVjp::new(move |_, _, _| Ok(vec![captured.clone()])).clone();
    let none: [Array; 0] = [];
    assert_eq!(host(&vjp.call(&none, &none, &none).unwrap()[0]), [7.0]);
    let shift = 1_usize;
    let jvp = CustomJvp::new(move |x, _, argnums| Ok(vec![x[argnums[0] + shift].clone()])).clone();
    assert_eq!(host(&jvp.call(&[scalar(1.0), scalar(2.0)], &[], &[0]).unwrap()[0]), [2.0]);
    let axis = Some(4);
    let vmap = CustomVmap::new(move |x, axes| Ok((x.to_vec(), vec![axes[0], axis, None]))).clone();
    let (_, axes) = vmap.call(&none, &[None]).unwrap();
    assert_eq!(axes, [None, Some(4), None]);
    assert!(Closure::unary(ops::square).call(&[scalar(1.0), scalar(2.0)]).is_err());
    let failing = |_: &Array| Err(Error::invalid_argument("mine", "no"));
    assert_eq!(Closure::unary(failing).call(&[scalar(1.0)]).unwrap_err().to_string(), "[mine] no");
}

#[test]
fn axes_of_vmap_are_checked() {
    let square = |x: &[Array]| Ok(vec![ops::square(&x[0])?]);
    let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]).unwrap();
    let columns = transforms::vmap(square, &[&x], &[Some(-1)], &[Some(-1)]).unwrap();
    assert_eq!(host(&columns[0]), [1.0, 4.0, 9.0, 16.0, 25.0, 36.0]);
    for axis in [2, -3] {
        assert!(transforms::vmap(square, &[&x], &[Some(0)], &[Some(axis)]).is_err());
        assert!(transforms::vmap(square, &[&x], &[Some(axis)], &[Some(0)]).is_err());
    }
    let none = transforms::vmap(square, &[&x], &[None], &[Some(0)]).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_trace_may_own_a_compiled_function() {
    let x = scalar(2.0);
    for clear in [false, true] {
        let outer = transforms::compile(
            move |x: &[Array]| {
                // The rule stays in the graph, and with it what it captured.
                let inner = transforms::compile(sum_of_squares, false)?;
                inner.call(&[&scalar(1.0)])?;
                let also = transforms::compile_closure(&Closure::new(sum_of_squares), false)?;
                also.call(&[&scalar(1.0)])?;
                let rule = move |x: &[Array], _: &[Array], _: &[Array]| {
                    also.call(x)?;
                    inner.call(x)
                };
                transforms::custom_vjp(|x| Ok(vec![ops::square(&x[0])?]), rule)?.call(x)
            },
            false,
        )
        .unwrap();
        assert_eq!(host(&outer.call(&[&x]).unwrap()[0]), [4.0]);
        if clear {
            transforms::clear_compile_cache().unwrap();
        }
    }
}

/// A function of one array.
type Call = Rc<dyn Fn(&Array) -> Result<Vec<Array>>>;

/// A compiled function that calls itself for all but the last element, as `kind` says how it is
/// made; `given` are the arrays for that call.
fn recursive(kind: &str, given: fn(&Array) -> Result<Array>) -> Call {
    let this: Rc<RefCell<Option<Call>>> = Rc::default();
    let inner = this.clone();
    let f = move |x: &[Array]| {
        let length = x[0].shape()[0];
        if length == 1 {
            return Ok(vec![ops::square(&x[0])?]);
        }
        let call = inner.borrow().clone().expect("set below");
        let rest = call(&given(&x[0])?)?;
        Ok(vec![ops::add(&ops::sum(&x[0], false)?, &rest[0])?])
    };
    let call: Call = match kind {
        "compile" => {
            let f = transforms::compile(f, false).unwrap();
            Rc::new(move |x| f.call(&[x]))
        }
        "compile_closure" => {
            let f = transforms::compile_closure(&Closure::new(f), false).unwrap();
            Rc::new(move |x| f.call(&[x]))
        }
        "traces" => {
            let (traces, f) = (Traces::new(), Rc::new(f));
            Rc::new(move |x| {
                let f = f.clone();
                Ok(traces.call(move |x: &[Array]| Ok((f(x)?, ())), &[x], false, &[])?.0)
            })
        }
        _ => {
            let f = trees::compile(
                move |x: &Tree, _: &mut Tree| Ok(Tree::from(f(&x.leaves())?.remove(0))),
                false,
            );
            Rc::new(move |x| {
                Ok(f.call(&Tree::from(x.clone()), &mut Tree::List(Vec::new()))?.leaves())
            })
        }
    };
    *this.borrow_mut() = Some(call.clone());
    call
}

#[test]
fn a_function_that_is_traced_calls_itself_with_what_it_is_given_only() {
    for kind in ["compile", "compile_closure", "traces", "trees"] {
        // The trace goes on in the same graph.
        let f = recursive(kind, |x| ops::slice(x, &[1], &[x.shape()[0]], &[1]));
        let y = f(&vector(&[1.0, 2.0, 3.0])).unwrap();
        assert_eq!(host(&y[0]), [6.0 + 5.0 + 9.0], "{kind}");
        // Another trace of the same function would move the one that MLX is writing.
        let f = recursive(kind, |x| Ok(vector(&vec![1.0; x.shape()[0] as usize - 1])));
        for _ in 0..2 {
            let error = f(&vector(&[1.0; 8])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{kind}: {error:?}");
            assert!(error.to_string().contains("while it is traced"), "{kind}: {error}");
        }
        assert_eq!(host(&f(&vector(&[3.0])).unwrap()[0]), [9.0], "{kind}");
    }
}

#[test]
fn a_trace_cannot_forget_itself() {
    for forget in [transforms::clear_compile_cache, stream::clear_streams] {
        let f = transforms::compile(
            move |x| {
                forget()?;
                sum_of_squares(x)
            },
            false,
        )
        .unwrap();
        let error = f.call(&[vector(&[1.0])]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
        assert!(error.to_string().contains("while a function is traced"), "{error}");
    }
    transforms::clear_compile_cache().unwrap();
    let f = transforms::compile(sum_of_squares, false).unwrap();
    assert_eq!(host(&f.call(&[vector(&[2.0])]).unwrap()[0]), [4.0]);
}

/// Every way in which `f` can be called by MLX.
fn everywhere(f: fn(&[Array]) -> Result<Vec<Array>>) -> Vec<Box<dyn Fn() -> Result<()>>> {
    let x = vector(&[1.0, 2.0]);
    let rows = vec![Some(0)];
    let rule = move || {
        let zero = scalar(0.0);
        let fails = move |x: &[Array]| f(x).map(|_| vec![zero.clone()]);
        CustomFunction::new(sum_of_squares)
            .vjp({
                let fails = fails.clone();
                move |x, _, _| fails(x)
            })
            .jvp({
                let fails = fails.clone();
                move |x, _, _| fails(x)
            })
            .vmap(move |x, _| Ok((fails(x)?, vec![None])))
    };
    let (a, b, c, d, e) = (x.clone(), x.clone(), x.clone(), x.clone(), x.clone());
    let axes = rows.clone();
    vec![
        Box::new(move || Closure::new(f).call(&[&a]).map(drop)),
        Box::new(move || {
            let f = rule();
            transforms::grad(move |x| f.call(x), &[0], &[&b]).map(drop)
        }),
        Box::new(move || {
            let f = rule();
            transforms::jvp(move |x| f.call(x), &[&c], &[&c]).map(drop)
        }),
        Box::new(move || {
            let f = rule();
            let many = ops::stack(&[&d, &d])?;
            transforms::vmap(move |x| f.call(x), &[many], &axes, &rows).map(drop)
        }),
        Box::new(move || {
            let inner = move |x: &[Array]| transforms::compile(f, false)?.call(x);
            let outer = move |x: &[Array]| transforms::grad(inner, &[0], x);
            transforms::compile(outer, false)?.call(&[&e]).map(drop)
        }),
        Box::new(move || {
            let state = move |_: &Tree, state: &mut Tree| Ok(Tree::from(f(&state.leaves())?));
            trees::compile(state, false)
                .call(&Tree::from(scalar(1.0)), &mut Tree::from(x.clone()))
                .map(drop)
        }),
    ]
}

#[test]
fn errors_come_out_as_themselves_from_every_depth() {
    for (i, call) in everywhere(|_| Err(Error::closure("mine"))).iter().enumerate() {
        match call().unwrap_err() {
            Error::Closure(inner) => assert_eq!(inner.to_string(), "mine", "way {i}"),
            other => panic!("way {i}: {other}"),
        }
    }
}

#[test]
fn panics_come_out_as_themselves_from_every_depth() {
    for (i, call) in everywhere(|_| panic!("as planned")).iter().enumerate() {
        let caught = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        assert_eq!(caught.downcast_ref::<&str>(), Some(&"as planned"), "way {i}");
        assert_eq!(host(&sum_of_squares(&[vector(&[1.0, 2.0])]).unwrap()[0]), [5.0]);
    }
}
