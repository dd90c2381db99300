//! Indexing against a reference that visits one element after the other.

use mlx_graft::index::{Ellipsis, Index, NewAxis, Slice, Step};
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, ops, transforms};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

type Two = fn(i32, i32) -> i32;

/// An index of the reference.
#[derive(Debug, Clone)]
enum Item {
    Int(i32),
    Slice(Slice),
    Ellipsis,
    NewAxis,
    Places(Vec<i32>, Vec<i32>),
    Mask(Vec<i32>, Vec<bool>),
}

impl Item {
    fn index(&self) -> Index {
        match self {
            Self::Int(place) => (*place).into(),
            Self::Slice(slice) => (*slice).into(),
            Self::Ellipsis => Ellipsis.into(),
            Self::NewAxis => NewAxis.into(),
            Self::Places(shape, values) => Array::from_slice(values, shape).unwrap().into(),
            Self::Mask(shape, values) => Array::from_slice(values, shape).unwrap().into(),
        }
    }
}

/// The places of a range, found by walking.
fn walk(slice: &Slice, length: i32) -> Vec<i32> {
    let wrapped = |at: i32| if at < 0 { at + length } else { at };
    let forward = slice.step > 0;
    let mut at = match slice.start.map(wrapped) {
        Some(at) if forward => at.max(0),
        Some(at) => at.min(length - 1),
        None if forward => 0,
        None => length - 1,
    };
    let stop = slice.stop.map(wrapped);
    let mut places = Vec::new();
    while (0..length).contains(&at)
        && stop.is_none_or(|stop| if forward { at < stop } else { at > stop })
    {
        places.push(at);
        at += slice.step;
    }
    places
}

/// All positions in a shape, the last dimension fastest.
fn positions(shape: &[i32]) -> Vec<Vec<i32>> {
    shape.iter().fold(vec![vec![]], |all, &length| {
        let longer =
            |position: Vec<i32>| (0..length).map(move |at| [position.clone(), vec![at]].concat());
        all.into_iter().flat_map(longer).collect()
    })
}

fn offset(position: &[i32], shape: &[i32]) -> usize {
    position.iter().zip(shape).fold(0, |sum, (at, length)| sum * length + at) as usize
}

/// A dimension of the array.
enum Axis {
    Range(Vec<i32>),
    Places(Vec<i32>, Vec<i32>),
}

/// Dimensions of the result.
#[derive(PartialEq)]
enum Dim {
    /// All those of the arrays of places.
    Places,
    New,
    /// The range of an axis.
    Range(usize),
}

/// An index, taken apart.
struct Selection {
    result: Vec<Dim>,
    axes: Vec<Axis>,
    /// The common shape of the arrays of places.
    common: Vec<i32>,
}

fn select(shape: &[i32], items: &[Item]) -> Selection {
    let used: usize = items
        .iter()
        .map(|item| match item {
            Item::Mask(shape, _) => shape.len(),
            Item::Ellipsis | Item::NewAxis => 0,
            _ => 1,
        })
        .sum();
    let mut items = items.to_vec();
    if !items.iter().any(|item| matches!(item, Item::Ellipsis)) {
        items.push(Item::Ellipsis);
    }
    let any_array = items.iter().any(|item| matches!(item, Item::Places(..) | Item::Mask(..)));

    let mut result: Vec<Dim> = Vec::new();
    let mut axes: Vec<Axis> = Vec::new();
    let mut runs = 0;
    let mut in_run = false;
    let mut common: Vec<i32> = vec![];
    for item in &items {
        let mut places = Vec::new();
        match item {
            Item::Int(at) => {
                let at = if *at < 0 { at + shape[axes.len()] } else { *at };
                if any_array {
                    places.push((vec![], vec![at]));
                } else {
                    axes.push(Axis::Range(vec![at]));
                }
            }
            Item::Slice(slice) => {
                result.push(Dim::Range(axes.len()));
                axes.push(Axis::Range(walk(slice, shape[axes.len()])));
            }
            Item::Ellipsis => {
                for _ in used..shape.len() {
                    result.push(Dim::Range(axes.len()));
                    axes.push(Axis::Range((0..shape[axes.len()]).collect()));
                }
                if used == shape.len() {
                    // In NumPy, an ellipsis of no dimension separates arrays; in MLX it does not.
                    continue;
                }
            }
            Item::NewAxis => result.push(Dim::New),
            Item::Places(shape, values) => places.push((shape.clone(), values.clone())),
            Item::Mask(shape, values) => {
                let set: Vec<Vec<i32>> = positions(shape)
                    .into_iter()
                    .zip(values)
                    .filter(|(_, set)| **set)
                    .map(|(position, _)| position)
                    .collect();
                for axis in 0..shape.len() {
                    places.push((vec![set.len() as i32], set.iter().map(|p| p[axis]).collect()));
                }
            }
        }
        if places.is_empty() {
            in_run = false;
            continue;
        }
        if !in_run {
            runs += 1;
            in_run = true;
            if runs == 1 {
                result.push(Dim::Places);
            }
        }
        for (shape, values) in places {
            while common.len() < shape.len() {
                common.insert(0, 1);
            }
            let skip = common.len() - shape.len();
            for (length, &other) in common[skip..].iter_mut().zip(&shape) {
                *length = if *length == 1 { other } else { *length };
            }
            axes.push(Axis::Places(shape, values));
        }
    }
    if runs > 1 {
        result.retain(|dim| *dim != Dim::Places);
        result.insert(0, Dim::Places);
    }
    Selection { result, axes, common }
}

/// The shape of the selection, and the offset in the array of each of its elements.
fn reference(shape: &[i32], items: &[Item]) -> (Vec<i32>, Vec<usize>) {
    let Selection { result, axes, common } = select(shape, items);
    let lengths: Vec<i32> = result
        .iter()
        .flat_map(|dim| match dim {
            Dim::Places => common.clone(),
            Dim::New => vec![1],
            Dim::Range(axis) => match &axes[*axis] {
                Axis::Range(places) => vec![places.len() as i32],
                Axis::Places(..) => unreachable!(),
            },
        })
        .collect();
    let offsets = positions(&lengths)
        .into_iter()
        .map(|position| {
            let mut source = vec![0; shape.len()];
            for (axis, kind) in axes.iter().enumerate() {
                if let Axis::Range(places) = kind
                    && places.len() == 1
                {
                    source[axis] = places[0];
                }
            }
            let mut at = 0;
            for dim in &result {
                match dim {
                    Dim::Places => {
                        let place = &position[at..at + common.len()];
                        for (axis, kind) in axes.iter().enumerate() {
                            let Axis::Places(own, values) = kind else { continue };
                            let own_place: Vec<i32> = place[common.len() - own.len()..]
                                .iter()
                                .zip(own)
                                .map(|(&at, &length)| if length == 1 { 0 } else { at })
                                .collect();
                            let value = values[offset(&own_place, own)];
                            source[axis] = if value < 0 { value + shape[axis] } else { value };
                        }
                        at += common.len();
                    }
                    Dim::New => at += 1,
                    Dim::Range(axis) => {
                        if let Axis::Range(places) = &axes[*axis] {
                            source[*axis] = places[position[at] as usize];
                        }
                        at += 1;
                    }
                }
            }
            offset(&source, shape)
        })
        .collect();
    (lengths, offsets)
}

/// Turns random words into an index that fits a shape.
fn items(shape: &[i32], words: &[u32]) -> Vec<Item> {
    let mut words = words.iter().copied().cycle();
    let mut below = move |n: i32| (words.next().unwrap() % n.max(1) as u32) as i32;
    let common: Vec<i32> = (0..below(3)).map(|_| 1 + below(3)).collect();
    let mut items = Vec::new();
    let mut axis = 0;
    let mut ellipsis = false;
    while axis < shape.len() {
        let length = shape[axis];
        match below(9) {
            0 if length > 0 => items.push(Item::Int(below(2 * length) - length)),
            1 if !ellipsis => {
                ellipsis = true;
                items.push(Item::Ellipsis);
                axis += below((shape.len() - axis) as i32 + 1) as usize;
                continue;
            }
            2 => {
                items.push(Item::NewAxis);
                continue;
            }
            3 | 4 if length > 0 => {
                let own: Vec<i32> = common[below(common.len() as i32 + 1) as usize..]
                    .iter()
                    .map(|&length| if below(4) == 0 { 1 } else { length })
                    .collect();
                let size = own.iter().product();
                let values = (0..size).map(|_| below(2 * length) - length).collect();
                items.push(Item::Places(own, values));
            }
            // Of several arrays the numbers of places must agree, so a mask comes alone.
            5 if !items.iter().any(|item| matches!(item, Item::Places(..) | Item::Mask(..))) => {
                let ndim = 1 + below((shape.len() - axis) as i32) as usize;
                let own = shape[axis..axis + ndim].to_vec();
                let values = (0..own.iter().product()).map(|_| below(2) == 1).collect();
                items.push(Item::Mask(own, values));
                axis += ndim;
                // After an ellipsis, all that are left need an index of their own.
                while axis < shape.len() && (ellipsis || below(2) == 0) {
                    items.push(Item::Slice((..).step(1 - 2 * below(2))));
                    axis += 1;
                }
                return items;
            }
            _ => {
                let bound = |items: &mut dyn FnMut(i32) -> i32| {
                    (items(3) > 0).then(|| items(2 * length + 5) - length - 2)
                };
                let (start, stop) = (bound(&mut below), bound(&mut below));
                let step = [1, 1, 2, 3, -1, -2][below(6) as usize];
                items.push(Item::Slice(Slice { start, stop, step }));
            }
        }
        axis += 1;
        if !ellipsis && below(6) == 0 {
            break;
        }
    }
    items
}

fn iota(shape: &[i32]) -> Array {
    let size: i32 = shape.iter().product();
    let x = ops::arange(0.0, f64::from(size), 1.0, Dtype::Int32).unwrap();
    ops::reshape(&x, shape).unwrap()
}

fn cases() -> impl Strategy<Value = (Vec<i32>, Vec<u32>)> {
    let length = prop_oneof![1 => Just(0), 12 => 1..=4_i32];
    (prop::collection::vec(length, 1..=4), prop::collection::vec(any::<u32>(), 40))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0),
        ..ProptestConfig::default() })]

    #[test]
    fn get_is_the_reference((shape, words) in cases()) {
        let items = items(&shape, &words);
        let indices: Vec<Index> = items.iter().map(Item::index).collect();
        let (lengths, offsets) = reference(&shape, &items);
        let x = iota(&shape);
        let found = x.get(&indices[..]).unwrap_or_else(|e| panic!("{items:?} of {shape:?}: {e}"));
        prop_assert_eq!(found.shape(), &lengths[..], "{:?} of {:?}", items, shape);
        let found = found.to_vec::<i32>().unwrap();
        let wanted: Vec<i32> = offsets.iter().map(|&at| at as i32).collect();
        prop_assert_eq!(found, wanted, "{:?} of {:?}", items, shape);
    }

    #[test]
    fn updates_are_the_reference((shape, words) in cases()) {
        let items = items(&shape, &words);
        let indices: Vec<Index> = items.iter().map(Item::index).collect();
        let (lengths, offsets) = reference(&shape, &items);
        let x = iota(&shape);
        // Whole, from one number, and along the last dimension.
        let values = [
            ops::add(&iota(&lengths), &Array::scalar(100).unwrap()).unwrap(),
            Array::scalar(-3).unwrap(),
            iota(lengths.last().map_or(&[][..], std::slice::from_ref)),
        ];
        for value in &values {
            let wide = ops::broadcast_to(value, &lengths).unwrap().to_vec::<i32>().unwrap();
            let at = x.at(&indices[..]);
            let updates: [(&str, Result<Array>, Two); 6] = [
                ("set", at.set(value), |_, new| new),
                ("add", at.add(value), |old, new| old + new),
                ("subtract", at.subtract(value), |old, new| old - new),
                ("multiply", at.multiply(value), i32::wrapping_mul),
                ("maximum", at.maximum(value), i32::max),
                ("minimum", at.minimum(value), i32::min),
            ];
            for (name, found, update) in updates {
                let found = found.unwrap_or_else(|e| panic!("{name} {items:?} of {shape:?}: {e}"));
                let mut wanted = x.to_vec::<i32>().unwrap();
                for (&at, &new) in offsets.iter().zip(&wide) {
                    wanted[at] = update(wanted[at], new);
                }
                prop_assert_eq!(found.shape(), &shape[..]);
                let found = found.to_vec::<i32>().unwrap();
                prop_assert_eq!(found, wanted, "{} {:?} of {:?}", name, items, shape);
            }
        }
    }
}

#[test]
fn what_can_stand_in_an_index() -> Result<()> {
    let x = iota(&[3, 4, 5]);
    let places = Array::from_slice(&[1_u8, 0], &[2])?;
    let (last, low) = (-1, 2);
    let shapes: [(Result<Array>, &[i32]); 12] = [
        (x.get(()), &[3, 4, 5]),
        (x.get(-1), &[4, 5]),
        (x.get((1.., ..=2, 1..=last)), &[2, 3, 4]),
        (x.get((.., .., NewAxis, 2)), &[3, 4, 1]),
        (x.get((Ellipsis, ..2)), &[3, 4, 2]),
        (x.get(NewAxis), &[1, 3, 4, 5]),
        (x.get(&places), &[2, 4, 5]),
        (x.get((0, .., &places)), &[2, 4]),
        (x.get((.., 0, &places)), &[3, 2]),
        (x.get((5..low, ..=last)), &[0, 4, 5]),
        (x.get(vec![Index::from(0), Index::from(..)]), &[4, 5]),
        (x.get((NewAxis, &places, NewAxis, &places, Ellipsis, NewAxis)), &[2, 1, 1, 5, 1]),
    ];
    for (found, shape) in shapes {
        assert_eq!(found?.shape(), shape);
    }
    Ok(())
}

#[test]
fn wrong_indices_are_errors() -> Result<()> {
    let x = iota(&[2, 3]);
    let out_of_range = |found: Result<Array>| found.unwrap_err().kind() == ErrorKind::OutOfRange;
    assert!(
        out_of_range(x.get(2)) && out_of_range(x.get((0, -4))) && out_of_range(x.get(i32::MIN))
    );
    assert!(out_of_range(x.get(&Array::from_slice(&[0, 2], &[2])?)));
    assert!(out_of_range(x.at((.., 3)).set(&x)));
    let invalid = |found: Result<Array>| found.unwrap_err().kind() == ErrorKind::InvalidArgument;
    assert!(invalid(x.get((0, 0, 0))) && invalid(x.get((Ellipsis, Ellipsis))));
    assert!(invalid(x.get((..).step(0))));
    assert!(invalid(x.get(&Array::from_slice(&[true; 3], &[3])?)));
    assert!(invalid(x.get(&Array::scalar(true)?)));
    assert!(invalid(x.get(&Array::scalar(0.0_f32)?)));
    let (two, three) = (Array::from_slice(&[0, 1], &[2])?, Array::from_slice(&[0; 3], &[3])?);
    assert!(invalid(x.get((&two, &three))) && invalid(x.at((&two, &three)).set(&two)));
    assert!(invalid(x.at(0).set(&two)) && invalid(x.at(0).divide(&x)));
    Ok(())
}

#[test]
fn an_update_takes_the_dtype_of_the_array() -> Result<()> {
    let x = Array::from_slice(&[1.0_f32, 2.0, 4.0], &[3])?;
    let halves = x.at(1..).divide(&Array::scalar(2)?)?;
    assert_eq!((halves.dtype(), halves.to_vec::<f32>()?), (Dtype::Float32, vec![1.0, 1.0, 2.0]));
    let leading = x.at(1..).set(&Array::from_slice(&[7_i32, 8], &[1, 1, 2])?)?;
    assert_eq!(leading.to_vec::<f32>()?, [1.0, 7.0, 8.0]);
    // Of a dtype without numbers below zero, or without numbers.
    let one = Array::scalar(1)?;
    for value in [ops::astype(&one, Dtype::Uint8)?, ops::astype(&one, Dtype::Bool)?] {
        let less = Array::from_slice(&[5, 7], &[2])?.at(0).subtract(&value)?;
        assert_eq!((less.dtype(), less.to_vec::<i32>()?), (Dtype::Int32, vec![4, 7]));
        let picked = Array::from_slice(&[0, 0], &[2])?;
        let less = Array::from_slice(&[5, 7], &[2])?.at(&picked).subtract(&value)?;
        assert_eq!(less.to_vec::<i32>()?, [3, 7]);
    }
    let three = Array::from_slice(&[3_u32], &[1])?;
    assert_eq!(x.at(1..2).subtract(&three)?.to_vec::<f32>()?, [1.0, -1.0, 4.0]);
    let large = ops::greater(&x, &Array::scalar(1.5_f32)?)?;
    let less = x.at(&large).subtract(&ops::squeeze(&three)?)?;
    assert_eq!(less.to_vec::<f32>()?, [1.0, -1.0, 1.0]);
    // To an array without them, modulo their number.
    let bytes = Array::from_slice(&[1_u8, 9], &[2])?;
    assert_eq!(bytes.at(..).subtract(&Array::scalar(2.0_f32)?)?.to_vec::<u8>()?, [255, 7]);
    let error = large.at(0).subtract(&one).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("an update of bool"), "{error}");
    Ok(())
}

#[test]
fn indexing_is_differentiated_compiled_and_mapped() -> Result<()> {
    let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;
    let loss = |v: &[Array]| {
        let columns = Array::from_slice(&[2, 0, 2], &[3])?;
        let picked = v[0].get((.., &columns))?;
        let changed = v[0].at((1.., ..2)).add(&v[0].get((..1, 1..))?)?;
        Ok(vec![ops::sum(&ops::add(&ops::sum(&ops::square(&picked)?, false)?, &changed)?, false)?])
    };
    // 2 · count · x for the columns, times the 6 elements that the sum is added to, plus where an
    // element is in `changed`.
    let wanted = [13.0, 2.0, 74.0, 49.0, 1.0, 145.0];
    assert_eq!(transforms::grad(loss, &[0], &[&x])?[0].to_vec::<f32>()?, wanted);
    let value = loss(std::slice::from_ref(&x))?[0].item::<f32>()?;
    let compiled = transforms::compile(loss, false)?;
    assert_eq!(compiled.call(&[&x])?[0].to_vec::<f32>()?, [value]);
    let both = ops::stack(&[&x, &x])?;
    let mapped = transforms::vmap(loss, &[&both], &[Some(0)], &[Some(0)])?;
    assert_eq!(mapped[0].to_vec::<f32>()?, [value; 2]);

    // A mask whose values are not known: the same value everywhere is possible, a shape is not.
    let relu = |v: &[Array]| {
        let zero = Array::scalar(0.0_f32)?;
        Ok(vec![v[0].at(&ops::less(&v[0], &zero)?).set(&zero)?])
    };
    let y = Array::from_slice(&[-1.0_f32, 2.0], &[2])?;
    assert_eq!(transforms::compile(relu, false)?.call(&[&y])?[0].to_vec::<f32>()?, [0.0, 2.0]);
    let select = |v: &[Array]| Ok(vec![v[0].get(&ops::less(&v[0], &Array::scalar(0.0_f32)?)?)?]);
    assert!(matches!(transforms::compile(select, false)?.call(&[&y]), Err(Error::Mlx { .. })));
    Ok(())
}
