//! Numbers of bytes for people.

/// With the largest unit of which there is at least one, and one digit after the point where it is not whole.
pub(super) fn readable(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) != 0 {
        unit += 1;
    }
    let size = 1u64 << (10 * unit);
    let name = UNITS[unit];
    if bytes.is_multiple_of(size) {
        format!("{} {name}", bytes / size)
    } else {
        format!("{:.1} {name}", bytes as f64 / size as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_fit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (512 << 20, "512 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(readable(bytes), text);
        }
    }
}
