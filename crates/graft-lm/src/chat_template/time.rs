//! The time that chat templates print.

use std::fmt;

use chrono::format::StrftimeItems;
use chrono::{DateTime, FixedOffset, Local};
use serde::{Deserialize, Serialize};

/// A moment as clocks of a place show it; as text that of RFC 3339, which has all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(DateTime<FixedOffset>);

impl Time {
    /// The present, here.
    pub fn now() -> Self {
        Self(Local::now().fixed_offset())
    }

    /// The time as `datetime.strftime(format)` writes it; `None` if that is no format of a time.
    pub(super) fn strftime(self, format: &str) -> Option<String> {
        let items = StrftimeItems::new(format).parse().ok()?;
        Some(self.0.format_with_items(items.iter()).to_string())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339())
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Time {
    type Error = chrono::ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        DateTime::parse_from_rfc3339(&text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::Time;

    #[test]
    fn a_time_comes_back_from_its_text() {
        let now = Time::now();
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Time>(&text).unwrap(), now);
        let evening: Time = serde_json::from_str("\"2026-11-30T23:59:10.25+01:00\"").unwrap();
        assert_eq!(evening.to_string(), "2026-11-30T23:59:10.250+01:00");
        assert_eq!(evening.strftime("%d %b %Y, %H:%M").unwrap(), "30 Nov 2026, 23:59");
        assert!(evening.strftime("%!").is_none());
        assert!(serde_json::from_str::<Time>("\"yesterday\"").is_err());
    }
}
