//! The time zone of whoever reads the output.

use jiff::tz::TimeZone;

/// The system's time zone file. To read it is all that is needed; to learn the zone's name as well, every
/// directory of the time zone database would be read, at each start.
const LOCAL_TIME: &str = "/etc/localtime";

/// What TZ says, or else the system; UTC where there is neither.
pub(crate) fn zone() -> TimeZone {
    let of_system = || TimeZone::tzif("local", &std::fs::read(LOCAL_TIME).ok()?).ok();
    let is_told = std::env::var_os("TZ").is_some();
    (!is_told).then(of_system).flatten().or_else(|| TimeZone::try_system().ok()).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_zone_is_that_of_the_system() {
        let system = TimeZone::try_system().unwrap_or(TimeZone::UTC);
        for second in (0..2_000_000_000).step_by(10_000_000) {
            let time = Timestamp::from_second(second).unwrap();
            assert_eq!(zone().to_offset(time), system.to_offset(time), "{time}");
        }
    }
}
