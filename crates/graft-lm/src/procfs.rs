//! What Linux tells of the system and of this process, in the files of `/proc`.

use std::fs;

/// The bytes that the line of `file` which begins with `name` tells, in kilobytes. `None` where there
/// is no such file or line.
pub(crate) fn bytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn the_kilobytes_of_a_line_are_told_as_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("status");
        std::fs::write(&file, "Name:\tgraft\nVmHWM:\t     12 kB\nVmRSS:\t7 kB\n").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(bytes(file, "VmRSS:"), Some(7 * 1024));
        assert_eq!(bytes(file, "VmHWM:"), Some(12 * 1024));
        assert_eq!(bytes(file, "Name:"), None);
        assert_eq!(bytes(file, "VmSize:"), None);
        assert_eq!(bytes("/proc/none", "VmRSS:"), None);
    }
}
