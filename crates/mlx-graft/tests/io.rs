//! Files and streams: what is written is read back, what is broken is refused.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mlx_graft::io::{Compression, GgufValue};
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, ops, transforms};

fn array(dtype: Dtype, shape: &[i32]) -> Array {
    let size = shape.iter().product::<i32>();
    let values: Vec<f32> = (0..size).map(|i| (i * 7 % 11) as f32).collect();
    ops::astype(&Array::from_slice(&values, shape).unwrap(), dtype).unwrap()
}

fn assert_same(found: &Array, wanted: &Array) {
    assert_eq!((found.shape(), found.dtype()), (wanted.shape(), wanted.dtype()));
    assert_eq!(found.to_bytes().unwrap(), wanted.to_bytes().unwrap());
}

const SHAPES: &[&[i32]] = &[&[], &[3], &[2, 3], &[0, 3], &[2, 1, 3]];

#[test]
fn npy_files_and_streams_keep_every_dtype_and_shape() {
    let folder = tempfile::tempdir().unwrap();
    for &dtype in Dtype::ALL {
        for shape in SHAPES {
            let x = array(dtype, shape);
            let path = folder.path().join("x.npy");
            mlx_graft::io::save(&path, &x).unwrap();
            let loaded = mlx_graft::io::load(&path).unwrap();
            assert!(!loaded.is_scheduled());
            assert_same(&loaded, &x);
            let mut stream = Cursor::new(vec![7; 5]);
            stream.seek(SeekFrom::End(0)).unwrap();
            mlx_graft::io::save_to(&mut stream, &x).unwrap();
            // From the current position on, whatever is before it.
            stream.seek(SeekFrom::Start(5)).unwrap();
            assert_same(&mlx_graft::io::load_from(stream).unwrap(), &x);
        }
    }
}

#[test]
fn npz_archives_keep_every_dtype_and_shape() {
    let folder = tempfile::tempdir().unwrap();
    for compression in [Compression::Stored, Compression::Deflated] {
        let arrays: BTreeMap<String, Array> = Dtype::ALL
            .iter()
            .flat_map(|&dtype| SHAPES.iter().map(move |&shape| (dtype, shape)))
            .map(|(dtype, shape)| (format!("{dtype}{shape:?}"), array(dtype, shape)))
            .collect();
        let path = folder.path().join("x");
        mlx_graft::io::save_npz(&path, &arrays, compression).unwrap();
        let mut stream = Cursor::new(Vec::new());
        mlx_graft::io::save_npz_to(&mut stream, &arrays, compression).unwrap();
        let loaded = [
            mlx_graft::io::load_npz(path.with_extension("npz")).unwrap(),
            mlx_graft::io::load_npz_from(stream).unwrap(),
        ];
        for loaded in loaded {
            assert!(loaded.keys().eq(arrays.keys()));
            for (name, x) in &loaded {
                assert_same(x, &arrays[name]);
            }
        }
    }
}

#[test]
fn safetensors_files_and_streams_keep_arrays_and_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let arrays: BTreeMap<String, Array> = Dtype::ALL
        .iter()
        .filter(|&&dtype| dtype != Dtype::Float64)
        .flat_map(|&dtype| SHAPES.iter().map(move |&shape| (dtype, shape)))
        .map(|(dtype, shape)| (format!("{dtype} {shape:?} ü\"\\"), array(dtype, shape)))
        .collect();
    let metadata = BTreeMap::from([("format".to_string(), "mlx \"ä\" \n".to_string())]);
    let path = folder.path().join("x.safetensors");
    mlx_graft::io::save_safetensors(&path, &arrays, &metadata).unwrap();
    let mut stream = Cursor::new(Vec::new());
    mlx_graft::io::save_safetensors_to(&mut stream, &arrays, &metadata).unwrap();
    stream.set_position(0);
    let loaded = [
        mlx_graft::io::load_safetensors(&path).unwrap(),
        mlx_graft::io::load_safetensors_from(stream).unwrap(),
    ];
    for loaded in loaded {
        assert_eq!(loaded.metadata, metadata);
        assert!(loaded.arrays.keys().eq(arrays.keys()));
        assert!(loaded.arrays.values().all(|x| !x.is_scheduled()));
        for (name, x) in &loaded.arrays {
            assert_same(x, &arrays[name]);
        }
    }
    let wide = [("x", array(Dtype::Float64, &[2]))];
    let refused = mlx_graft::io::save_safetensors(&path, wide, &metadata).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Runtime);
    assert!(mlx_graft::io::load_safetensors(&path).is_ok(), "the old file is as it was");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn gguf_files_keep_arrays_and_metadata_of_all_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let dtypes = [Dtype::Float32, Dtype::Float16, Dtype::Int8, Dtype::Int16, Dtype::Int32];
    let arrays: BTreeMap<String, Array> =
        dtypes.iter().map(|&dtype| (dtype.to_string(), array(dtype, &[2, 3]))).collect();
    let metadata = BTreeMap::from([
        ("number".to_string(), GgufValue::Array(array(Dtype::Uint64, &[]))),
        ("numbers".to_string(), GgufValue::Array(array(Dtype::Bool, &[3]))),
        ("text".to_string(), GgufValue::String("ä".to_string())),
        ("texts".to_string(), GgufValue::Strings(vec!["a".into(), String::new()])),
    ]);
    mlx_graft::io::save_gguf(&path, &arrays, &metadata).unwrap();
    let loaded = mlx_graft::io::load_gguf(&path).unwrap();
    assert!(loaded.arrays.keys().eq(arrays.keys()));
    for (name, x) in &loaded.arrays {
        assert_same(x, &arrays[name]);
    }
    assert!(loaded.metadata.keys().eq(metadata.keys()));
    for (key, value) in &metadata {
        match (value, &loaded.metadata[key]) {
            (GgufValue::Array(x), GgufValue::Array(y)) => assert_same(y, x),
            (GgufValue::String(x), GgufValue::String(y)) => assert_eq!(x, y),
            (GgufValue::Strings(x), GgufValue::Strings(y)) => assert_eq!(x, y),
            (x, y) => panic!("{x:?} became {y:?}"),
        }
    }
    let no_metadata: [(&str, &GgufValue); 0] = [];
    for wrong in [array(Dtype::Bfloat16, &[2]), array(Dtype::Int8, &[1; 9])] {
        assert!(mlx_graft::io::save_gguf(&path, [("x", &wrong)], no_metadata).is_err());
    }
    let alignment = GgufValue::Array(Array::scalar(64_u32).unwrap());
    let x = array(Dtype::Int8, &[2]);
    let refused = mlx_graft::io::save_gguf(&path, [("x", &x)], [("general.alignment", &alignment)]);
    assert!(refused.unwrap_err().to_string().contains("alignment"));
    assert!(mlx_graft::io::load_gguf(&path).is_ok(), "the old file is as it was");
}

/// What a load of bytes and the evaluation of all arrays gave; never a panic.
fn outcome(load: &dyn Fn() -> Result<Vec<Array>>) -> Result<()> {
    transforms::eval(&load()?)
}

type Load = fn(&Path) -> Result<Vec<Array>>;

/// A small file of each format, and how to load it.
fn formats(folder: &Path) -> Vec<(std::path::PathBuf, Load)> {
    let (x, y) = (array(Dtype::Float32, &[2, 3]), array(Dtype::Int8, &[5]));
    let arrays = [("x", &x), ("y", &y)];
    let [npy, npz, packed, tensors, gguf] =
        ["a.npy", "a.npz", "b.npz", "a.safetensors", "a.gguf"].map(|name| folder.join(name));
    mlx_graft::io::save(&npy, &x).unwrap();
    mlx_graft::io::save_npz(&npz, arrays, Compression::Stored).unwrap();
    mlx_graft::io::save_npz(&packed, arrays, Compression::Deflated).unwrap();
    mlx_graft::io::save_safetensors(&tensors, arrays, [("format", "mlx")]).unwrap();
    let texts = GgufValue::Strings(vec!["one".into(), "two".into()]);
    let number = GgufValue::Array(Array::scalar(3_i32).unwrap());
    mlx_graft::io::save_gguf(&gguf, arrays, [("texts", &texts), ("n", &number)]).unwrap();
    let load_npz: Load = |path| Ok(mlx_graft::io::load_npz(path)?.into_values().collect());
    vec![
        (npy, |path| Ok(vec![mlx_graft::io::load(path)?])),
        (npz, load_npz),
        (packed, load_npz),
        (tensors, |path| Ok(mlx_graft::io::load_safetensors(path)?.arrays.into_values().collect())),
        (gguf, |path| Ok(mlx_graft::io::load_gguf(path)?.arrays.into_values().collect())),
    ]
}

#[test]
fn a_file_cut_short_anywhere_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (path, load) in formats(folder.path()) {
        let whole = fs::read(&path).unwrap();
        assert!(outcome(&|| load(&path)).is_ok());
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = outcome(&|| load(&path)).expect_err("a whole file").to_string();
            assert!(error.contains(path.to_str().unwrap()), "{length} bytes: {error}");
        }
    }
}

#[test]
fn a_file_with_wrong_bytes_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 7_u64;
    let mut random = move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (path, load) in formats(folder.path()) {
        let whole = fs::read(&path).unwrap();
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            fs::write(&path, &bytes).unwrap();
            if let Err(error) = outcome(&|| load(&path)) {
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            }
        }
    }
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let x = array(Dtype::Float32, &[2]);
    for (path, load) in formats(folder.path()) {
        let missing = path.with_file_name(format!("no-{}", path.file_name().unwrap().display()));
        let error = outcome(&|| load(&missing)).unwrap_err();
        assert_eq!(refusal(&error), Some(io::ErrorKind::NotFound), "{error:?}");
        assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = outcome(&|| load(&path)).unwrap_err().to_string();
        assert!(error.contains("is a folder"), "{error}");
        fs::remove_dir(&path).unwrap();
    }
    let taken = folder.path().join("taken.npy");
    fs::create_dir(&taken).unwrap();
    let error = mlx_graft::io::save(&taken, &x).unwrap_err();
    assert_eq!(refusal(&error), Some(io::ErrorKind::IsADirectory), "{error:?}");
    let error = mlx_graft::io::save(folder.path().join("no/x.npy"), &x).unwrap_err();
    assert!(error.to_string().contains("no/x.npy"), "{error}");
    assert_eq!(refusal(&error), Some(io::ErrorKind::NotFound), "{error:?}");
    // What is read and broken is nothing that the system said.
    let broken = folder.path().join("broken.npy");
    fs::write(&broken, "no npy").unwrap();
    let error = mlx_graft::io::load(&broken).unwrap_err();
    assert!(matches!(error, Error::File { source: None, .. }), "{error:?}");
}

/// What the system said, as a caller finds it that knows nothing of the type of the error.
fn refusal(error: &Error) -> Option<io::ErrorKind> {
    assert!(matches!(error, Error::File { .. }), "{error:?}");
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<io::Error>().map(io::Error::kind)
}

fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn npy_headers_are_read_however_they_are_laid_out() {
    let data = [1_u8, 0, 2, 0, 3, 0, 4, 0];
    let headers = [
        "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2), }",
        "{ \"shape\" : (2,2) , \"fortran_order\" : False , \"descr\" : \"<i2\" }\n",
        "{'descr':'=i2','fortran_order':False,'shape':(2L,2L,)}",
    ];
    for header in headers {
        let x = mlx_graft::io::load_from(Cursor::new(npy(header, &data))).unwrap();
        assert_eq!((x.shape(), x.to_vec::<i16>().unwrap()), (&[2, 2][..], vec![1, 2, 3, 4]));
    }
    let swapped = "{'descr': '>i2', 'fortran_order': True, 'shape': (4, 1)}";
    let x = mlx_graft::io::load_from(Cursor::new(npy(swapped, &data))).unwrap();
    assert_eq!(x.to_vec::<i16>().unwrap(), [256, 512, 768, 1024]);
    let wrong = [
        ("{'descr': '<i2', 'fortran_order': False, 'shape': (-1, -4)}", ErrorKind::Runtime),
        ("{'descr': '<i2', 'fortran_order': False, 'shape': (99999999999,)}", ErrorKind::Runtime),
        (
            "{'descr': '<i2', 'fortran_order': False, 'shape': (65536, 65536, 65536, 65536)}",
            ErrorKind::Runtime,
        ),
        ("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2)} x", ErrorKind::Runtime),
        ("{'descr': '<i2', 'shape': (2, 2)}", ErrorKind::Runtime),
        (
            "{'descr': '<i2', 'descr': '<i2', 'fortran_order': True, 'shape': ()}",
            ErrorKind::Runtime,
        ),
        ("{'descr': '<c16', 'fortran_order': False, 'shape': ()}", ErrorKind::InvalidArgument),
        (
            "{'descr': [('a', '<i2')], 'fortran_order': False, 'shape': ()}",
            ErrorKind::InvalidArgument,
        ),
        ("{'descr': '|O', 'fortran_order': False, 'shape': ()}", ErrorKind::InvalidArgument),
    ];
    for (header, kind) in wrong {
        let error = mlx_graft::io::load_from(Cursor::new(npy(header, &data))).unwrap_err();
        assert_eq!(error.kind(), kind, "{header}: {error}");
    }
}

#[test]
fn hostile_safetensors_headers_are_refused() {
    let tensor = |dtype: &str, shape: &str, place: &str| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{place}}}}}"#)
    };
    let headers = [
        tensor("F32", "[-1,-1]", "[0,4]"),
        tensor("F32", "[65536,65536,65536,65536]", "[0,0]"),
        tensor("F32", "[4294967297]", "[0,4]"),
        tensor("F32", "[1.5]", "[0,4]"),
        tensor("F32", "[2]", "[0,4]"),
        tensor("F32", "[1]", "[4,0]"),
        tensor("F32", "[1]", "[0]"),
        tensor("F32", "[1]", "[18446744073709551612,18446744073709551616]"),
        tensor("F32", "[1]", "[18446744073709551608,18446744073709551612]"),
        tensor("F32", "[1]", "[8,12]"),
        tensor("F64", "[1]", "[0,8]"),
        r#"{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
            "y":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#
            .to_string(),
        r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
            "x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#
            .to_string(),
        r#"{"x\u0000y":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#.to_string(),
        r#"{"__metadata__":{"a":1}}"#.to_string(),
        "[]".to_string(),
        "[".repeat(100_000),
    ];
    let bytes = |length: u64, header: &str| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend([1; 8]);
        Cursor::new(bytes)
    };
    for header in headers {
        let stream = bytes(header.len() as u64, &header);
        let error = mlx_graft::io::load_safetensors_from(stream).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{header}: {error}");
    }
    for length in [0, 3, 1 << 20, 1 << 40, u64::MAX - 7, u64::MAX] {
        assert!(mlx_graft::io::load_safetensors_from(bytes(length, "{}")).is_err());
    }
    assert!(mlx_graft::io::load_safetensors_from(bytes(2, "{}")).is_ok());
}

/// A stream that fails when it is read the nth time, and tells how many of its kind live.
struct Failing {
    inner: Cursor<Vec<u8>>,
    reads_left: usize,
    panics: bool,
    live: Arc<AtomicUsize>,
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the network is down")]
struct Down;

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.reads_left == 0 {
            assert!(!self.panics, "the reader panics");
            return Err(io::Error::other(Down));
        }
        self.reads_left -= 1;
        self.inner.read(buffer)
    }
}

impl Seek for Failing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn a_failure_of_a_stream_comes_out_as_itself() {
    let mut bytes = Vec::new();
    mlx_graft::io::save_to(&mut bytes, &array(Dtype::Float32, &[64])).unwrap();
    let live = Arc::new(AtomicUsize::new(0));
    let mut lazy = 0;
    for reads_left in 0..4 {
        for panics in [false, true] {
            live.fetch_add(1, Ordering::SeqCst);
            let inner = Cursor::new(bytes.clone());
            let stream = Failing { inner, reads_left, panics, live: live.clone() };
            let run = || {
                let x = mlx_graft::io::load_from(stream)?;
                lazy += 1;
                ops::add(&x, &x)?.eval()
            };
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(result) => {
                    let error = result.expect_err("the stream fails");
                    assert!(!panics && error.to_string().contains("the network is down"));
                }
                Err(payload) => {
                    assert!(panics);
                    assert_eq!(payload.downcast_ref::<&str>(), Some(&"the reader panics"));
                }
            }
        }
    }
    assert!(lazy > 0, "the last reads happen in the evaluation");
    // A thread of MLX may still be about to let go of a stream.
    for _ in 0..100 {
        if live.load(Ordering::SeqCst) == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} streams live", live.load(Ordering::SeqCst));
}

struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other(Error::closure(Down)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Full {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Ok(0)
    }
}

#[test]
fn a_failure_of_a_writer_comes_out_as_itself() {
    let x = array(Dtype::Float32, &[3]);
    let none = [("", ""); 0];
    let errors = [
        mlx_graft::io::save_to(&mut Full, &x),
        mlx_graft::io::save_safetensors_to(&mut Full, [("x", &x)], none),
        mlx_graft::io::save_npz_to(&mut Full, [("x", &x)], Compression::Deflated),
    ];
    for error in errors {
        assert!(matches!(error, Err(Error::Closure(inner)) if inner.is::<Down>()));
    }
}

/// Counts how much is read, to see that loading is lazy.
struct Counting {
    inner: Cursor<Vec<u8>>,
    read: Arc<Mutex<usize>>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        *self.read.lock().unwrap() += read;
        Ok(read)
    }
}

impl Seek for Counting {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn elements_are_read_when_they_are_needed() {
    let x = array(Dtype::Float32, &[1 << 16]);
    let mut bytes = Vec::new();
    let arrays = [("x", &x), ("y", &x)];
    mlx_graft::io::save_safetensors_to(&mut bytes, arrays, [("", ""); 0]).unwrap();
    let read = Arc::new(Mutex::new(0));
    let stream = Counting { inner: Cursor::new(bytes), read: read.clone() };
    let loaded = mlx_graft::io::load_safetensors_from(stream).unwrap().arrays;
    assert!(*read.lock().unwrap() < 1 << 12);
    assert_same(&loaded["y"], &x);
    assert!(*read.lock().unwrap() < (1 << 18) + (1 << 12), "the other is not read");
}

#[test]
fn an_array_is_saved_over_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    mlx_graft::io::save(&path, &array(Dtype::Int32, &[3])).unwrap();
    let x = mlx_graft::io::load(&path).unwrap();
    mlx_graft::io::save(&path, &ops::add(&x, &x).unwrap()).unwrap();
    assert_eq!(mlx_graft::io::load(&path).unwrap().to_vec::<i32>().unwrap(), [0, 14, 6]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let [file, link] = ["x.npy", "link.npy"].map(|name| folder.path().join(name));
    mlx_graft::io::save(&file, &array(Dtype::Int32, &[3])).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    mlx_graft::io::save(&link, &array(Dtype::Int32, &[4])).unwrap();
    assert!(link.is_symlink());
    assert_eq!(mlx_graft::io::load(&file).unwrap().shape(), [4]);
}

#[test]
fn booleans_of_a_file_are_zero_or_one() {
    let bytes = npy("{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }", &[0, 1, 2]);
    let x = mlx_graft::io::load_from(Cursor::new(bytes)).unwrap();
    assert_eq!(x.to_vec::<bool>().unwrap(), [false, true, true]);
}
