//! The doctest of an operation.

use std::fmt::Write;

/// The arrays that an example may name.
const ARRAYS: [(&str, &str); 8] = [
    ("a", "Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?"),
    ("b", "Array::from_slice(&[3.0_f32, 2.0, 1.0], &[3])?"),
    ("i", "Array::from_slice(&[2, 0], &[2])?"),
    ("m", "Array::from_slice(&[4.0_f32, 2.0, 2.0, 3.0], &[2, 2])?"),
    ("o", "Array::from_slice(&[1.0_f32, 1.0, 1.0], &[3])?"),
    ("t", "Array::from_slice(&[true, false, true], &[3])?"),
    ("z", "Array::from_slice(&[0.0_f32, 0.0, 0.0], &[3])?"),
    ("key", "random::key(0)?"),
];

/// The lines of the doctest of the function `name`, as documentation comments.
pub fn doctest(name: &str, example: &str, gpu: bool) -> String {
    let code = example.replace("{f}", name);
    let mut lines: Vec<String> = code.lines().map(String::from).collect();
    if let Some(last) = lines.last_mut() {
        *last = statement(last);
    }
    let mut body = String::new();
    for (array, value) in ARRAYS {
        if names(&code, array) {
            let _ = writeln!(body, "let {array} = {value};");
        }
    }
    body += &lines.join("\n");

    let used = ["Array", "Dtype", "fast", "fft", "linalg", "ops", "random"];
    let used: Vec<&str> = used.into_iter().filter(|name| names(&body, name)).collect();
    let imported =
        if let [one] = used[..] { one.into() } else { format!("{{{}}}", used.join(", ")) };
    let attribute = if gpu { "no_run" } else { "" };
    let mut text = format!("///\n/// ```{attribute}\n/// # use mlx_graft::{imported};\n");
    for line in body.lines() {
        let _ = writeln!(text, "/// {line}");
    }
    text + "/// # Ok::<(), mlx_graft::Error>(())\n/// ```\n"
}

/// Whether the code uses a word that is no part of another.
fn names(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

/// The last line as a statement that checks it.
fn statement(line: &str) -> String {
    if let Some((call, values)) = line.split_once(" => ") {
        return format!("assert_eq!({call}?.to_vec::<{}>()?, {values});", element(values));
    }
    if let Some((call, shape)) = line.split_once(" has shape ") {
        return format!("assert_eq!({call}?.shape(), {});", array(shape));
    }
    match line.split_once(" == ") {
        Some((left, right)) => format!("assert_eq!({left}, {});", array(right)),
        None if line.ends_with(';') => line.into(),
        None => format!("{line}?;"),
    }
}

/// An empty array does not tell the type of its elements.
fn array(values: &str) -> &str {
    if values == "[]" { "[0_i32; 0]" } else { values }
}

/// The type of the elements of a list.
fn element(values: &str) -> &str {
    match values.split(['_', ',', ']']).nth(1) {
        Some(ty @ ("i32" | "u32")) => ty,
        _ if values.contains("true") || values.contains("false") => "bool",
        _ => "f32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_gets_the_arrays_that_it_names() {
        let text = doctest("ops::take", "{f}(&b, &i) => [1.0, 3.0]", false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "///",
                "/// ```",
                "/// # use mlx_graft::{Array, ops};",
                "/// let b = Array::from_slice(&[3.0_f32, 2.0, 1.0], &[3])?;",
                "/// let i = Array::from_slice(&[2, 0], &[2])?;",
                "/// assert_eq!(ops::take(&b, &i)?.to_vec::<f32>()?, [1.0, 3.0]);",
                "/// # Ok::<(), mlx_graft::Error>(())",
                "/// ```",
            ]
        );
    }

    #[test]
    fn the_last_line_is_checked() {
        assert_eq!(
            statement("f() => [1_u32, 2]"),
            "assert_eq!(f()?.to_vec::<u32>()?, [1_u32, 2]);"
        );
        assert_eq!(statement("f() has shape []"), "assert_eq!(f()?.shape(), [0_i32; 0]);");
        assert_eq!(statement("f()?.len() == 2"), "assert_eq!(f()?.len(), 2);");
        assert_eq!(statement("f(3)"), "f(3)?;");
        assert_eq!(statement("let x = f(3);"), "let x = f(3);");
    }
}
