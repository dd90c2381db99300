//! Memory that was reserved in huge pages is where the next arrays lie. One test alone in its
//! process, whose allocator it sets for good.

use std::fs;

use mlx_graft::{Dtype, Result, memory, ops};

/// Whether the system was asked for huge pages where this address lies; `None` where it does not say.
fn is_marked(address: usize) -> Option<bool> {
    let maps = fs::read_to_string("/proc/self/smaps").ok()?;
    let mut inside = false;
    for line in maps.lines() {
        let number = |text: &str| usize::from_str_radix(text, 16).ok();
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        if let Some((first, end)) = range.and_then(|(x, y)| number(x).zip(number(y))) {
            inside = (first..end).contains(&address);
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return Some(flags.split_whitespace().any(|flag| flag == "hg"));
        }
    }
    None
}

#[test]
fn arrays_lie_in_what_was_reserved() -> Result<()> {
    const BYTES: usize = 48 << 20;
    if !memory::keep_freed() || fs::metadata("/sys/kernel/mm/transparent_hugepage").is_err() {
        eprintln!("skipped: this system has no huge pages, or an allocator that keeps nothing");
        return Ok(());
    }
    let active = memory::active()?;
    assert!(memory::reserve_huge_pages(BYTES));
    assert_eq!(memory::active()?, active);
    let array = ops::arange(0.0, BYTES as f64 / 4.0 - 64.0, 1.0, Dtype::Float32)?;
    array.eval()?;
    let numbers = array.as_slice::<f32>()?;
    assert_eq!(numbers.len(), BYTES / 4 - 64);
    // Not the ends, where other memory may lie.
    match is_marked(std::ptr::from_ref(&numbers[numbers.len() / 2]).addr()) {
        Some(marked) => assert!(marked),
        None => eprintln!("skipped: the system does not tell about its pages"),
    }
    Ok(())
}
