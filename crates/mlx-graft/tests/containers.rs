//! Lists, maps and texts of mlx-c: what goes in comes out, copies are copies, nothing leaks. One
//! test, as the counter of handles is the process's.

use std::collections::BTreeMap;

use mlx_graft::containers::{
    MapStringToArray, MapStringToString, Text, VectorArray, VectorInt, VectorStream, VectorString,
    VectorVectorArray,
};
use mlx_graft::{Array, Device, ErrorKind, Result, Stream, live_handles};

fn number(value: i32) -> Array {
    Array::scalar(value).unwrap()
}

/// Runs every function of a list type: `$a`, `$b`, `$c` are elements, `$show` compares them.
macro_rules! exercise {
    ($list:ident of $item:ty, $from:ident, $a:expr, $b:expr, $c:expr, $show:expr) => {{
        let show: fn($item) -> _ = $show;
        let shown = |list: &$list| -> Result<Vec<_>> { list.iter().map(|x| x.map(show)).collect() };
        assert!($list::new().is_empty());
        assert_eq!($list::default().to_vec()?.len(), 0);
        let mut list = $list::$from(&[$a, $b])?;
        let copy = list.clone();
        list.push($c)?;
        list.extend(&[$a, $a])?;
        assert_eq!(shown(&list)?, [show($a), show($b), show($c), show($a), show($a)]);
        assert_eq!(shown(&copy)?, [show($a), show($b)]);
        assert_eq!(show(list.get(2)?), show($c));
        assert_eq!(list.get(5).err().map(|error| error.kind()), Some(ErrorKind::OutOfRange));
        list.assign(&[$b])?;
        assert_eq!(shown(&list)?, [show($b)]);
        list.assign_value($c)?;
        assert_eq!(shown(&list)?, [show($c)]);
        assert_eq!(shown(&$list::from_value($a)?)?, [show($a)]);
        list.assign(&[$a; 0])?;
        assert_eq!(list.len(), 0);
    }};
}

fn lists() -> Result<()> {
    let item: fn(Array) -> i32 = |x| x.item::<i32>().unwrap();
    exercise!(VectorArray of Array, from_arrays, number(1), number(2), number(3), item);
    exercise!(VectorInt of i32, from_ints, -1, 0, i32::MAX, |x: i32| x);
    exercise!(VectorString of String,
        from_strings,
        String::from("a"),
        String::new(),
        String::from("Grüße"),
        |x: String| x
    );
    let list = |values: &[i32]| {
        let arrays: Vec<Array> = values.iter().map(|&value| number(value)).collect();
        VectorArray::from_arrays(&arrays).unwrap()
    };
    exercise!(VectorVectorArray of VectorArray,
        from_lists,
        list(&[1, 2]),
        list(&[]),
        list(&[3]),
        |x: VectorArray| {
            x.to_vec().unwrap().iter().map(|x| x.item::<i32>().unwrap()).collect::<Vec<_>>()
        }
    );
    assert_eq!(VectorString::from_strings(&["a\0b"]).err().map(|e| e.kind()), {
        Some(ErrorKind::InvalidArgument)
    });
    Ok(())
}

fn streams() -> Result<()> {
    let stream = Stream::default_of(Device::cpu())?;
    let mut list = VectorStream::from_streams(&[&stream])?;
    list.push(&stream)?;
    list.extend(&[&stream])?;
    assert_eq!((list.len(), list.clone().len()), (3, 3));
    assert_eq!(list.get(2)?.device()?, Device::cpu());
    assert!(list.get(3).is_err());
    list.assign_value(&stream)?;
    list.assign(&[&stream, &stream])?;
    assert_eq!((list.to_vec()?.len(), VectorStream::from_value(&stream)?.len()), (2, 1));
    Ok(())
}

fn maps() -> Result<()> {
    let mut arrays = MapStringToArray::new();
    arrays.insert("b", &number(2))?;
    arrays.insert("a", &number(1))?;
    let copy = arrays.clone();
    arrays.insert("a", &number(3))?;
    let values = |map: &MapStringToArray| -> Vec<(String, i32)> {
        map.to_map().into_iter().map(|(name, x)| (name, x.item::<i32>().unwrap())).collect()
    };
    assert_eq!(values(&arrays), [("a".into(), 3), ("b".into(), 2)]);
    assert_eq!(values(&copy), [("a".into(), 1), ("b".into(), 2)]);
    assert_eq!(arrays.get("a")?.unwrap().item::<i32>()?, 3);
    assert!(arrays.get("c")?.is_none());
    assert!(arrays.insert("a\0", &number(1)).is_err());

    let texts = BTreeMap::from([("a", "1"), ("b", ""), ("ü", "ö")]);
    let mut map = MapStringToString::try_from(&texts)?;
    map.insert("b", "2")?;
    assert_eq!(map.clone().get("b")?.as_deref(), Some("2"));
    assert_eq!(map.get("c")?, None);
    assert!(map.insert("b", "\0").is_err());
    assert_eq!(map.to_map().len(), 3);
    assert_eq!(map.to_map()["ü"], "ö");
    Ok(())
}

#[test]
fn what_goes_in_comes_out_and_nothing_stays() -> Result<()> {
    let before = live_handles();
    for _ in 0..100 {
        lists()?;
        streams()?;
        maps()?;
        let text = Text::from_text("Grüße")?;
        assert_eq!(text.clone().to_string(), "Grüße");
        assert_eq!(Text::new(), Text::default());
    }
    assert_eq!(live_handles(), before);
    Ok(())
}
