//! Times of events, and the time zone for times in text output.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The system's time zone file. Reading it directly is enough; jiff would also look for the zone's name and
/// read every directory of the time zone database for that, at each start.
const LOCAL_TIME: &str = "/etc/localtime";

/// The time of an event; 1970 if the clock is off by more than 7,000 years.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or_default()
}

/// The zone in TZ, else the system's zone, else UTC.
pub(crate) fn zone() -> TimeZone {
    let system_zone = || TimeZone::tzif("local", &std::fs::read(LOCAL_TIME).ok()?).ok();
    let is_set = std::env::var_os("TZ").is_some();
    (!is_set).then(system_zone).flatten().or_else(|| TimeZone::try_system().ok()).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_that_of_the_system() {
        let system = TimeZone::try_system().unwrap_or(TimeZone::UTC);
        for second in (0..2_000_000_000).step_by(10_000_000) {
            let time = Timestamp::from_second(second).unwrap();
            assert_eq!(zone().to_offset(time), system.to_offset(time), "{time}");
        }
    }
}
