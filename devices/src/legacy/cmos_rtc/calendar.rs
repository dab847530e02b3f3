//! Seconds since 1970 to calendar fields and back, in the proleptic Gregorian calendar.
//!
//! Years are counted from March, so that the leap day is the last day of a year and month lengths
//! follow one linear formula; 400 years are 146097 days.

const SECONDS_PER_DAY: i64 = 86_400;
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH_DAYS: i64 = 719_468;

/// A date and a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: i64,
    /// 1..=12.
    pub(super) month: i64,
    /// 1..=31.
    pub(super) day: i64,
    /// 1 is Sunday.
    pub(super) weekday: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

impl DateTime {
    pub(super) const fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        let second_of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        let (year, month, day) = date_of(days);
        Self {
            year,
            month,
            day,
            // The first of January 1970 was a Thursday.
            weekday: (days + 4).rem_euclid(7) + 1,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }

    /// Fields out of range carry over: month 13 is January of the next year.
    pub(super) const fn to_unix(self) -> i64 {
        let month = self.month - 1;
        let year = self.year + month.div_euclid(12);
        let days = days_to_month(year, month.rem_euclid(12) + 1) + self.day - 1;
        days * SECONDS_PER_DAY + self.hour * 3600 + self.minute * 60 + self.second
    }
}

/// Days from the first of January 1970 to the first day of a month.
const fn days_to_month(year: i64, month: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + days_before(month) - EPOCH_DAYS
}

/// Days before the `month`-th month counted from March.
const fn days_before(month: i64) -> i64 {
    (month * 153 + 2) / 5
}

const fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    // Take out the leap days, the last of which in an era is its very last day.
    let leap_free =
        day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / (DAYS_PER_ERA - 1);
    let year_of_era = leap_free / 365;
    let day_of_year = day_of_era - (year_of_era * 365 + year_of_era / 4 - year_of_era / 100);
    let month = (day_of_year * 5 + 2) / 153;
    let day = day_of_year - days_before(month) + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year_of_era + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (seconds, expected) in [
            (0, (1970, 1, 1, 5, 0, 0, 0)),
            (951_782_399, (2000, 2, 28, 2, 23, 59, 59)),
            (951_782_400, (2000, 2, 29, 3, 0, 0, 0)),
            (1_709_251_199, (2024, 2, 29, 5, 23, 59, 59)),
            (4_107_542_399, (2100, 2, 28, 1, 23, 59, 59)),
            (4_107_542_400, (2100, 3, 1, 2, 0, 0, 0)),
        ] {
            let t = DateTime::from_unix(seconds);
            let got = (
                t.year, t.month, t.day, t.weekday, t.hour, t.minute, t.second,
            );
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn every_day_of_eight_centuries_converts_back_and_follows_the_one_before() {
        let first = DateTime {
            year: 1600,
            ..DateTime::from_unix(0)
        }
        .to_unix()
            / SECONDS_PER_DAY;
        let mut previous = DateTime::from_unix((first - 1) * SECONDS_PER_DAY);
        for day in first..first + 2 * DAYS_PER_ERA {
            let date = DateTime::from_unix(day * SECONDS_PER_DAY + 3661);
            assert_eq!(date.to_unix(), day * SECONDS_PER_DAY + 3661);
            let next_day = (date.year, date.month, date.day)
                == (previous.year, previous.month, previous.day + 1);
            assert!(next_day || date.day == 1, "{date:?}");
            assert_eq!(date.weekday, previous.weekday % 7 + 1);
            previous = date;
        }
    }

    #[test]
    fn fields_out_of_range_carry_over() {
        let date = DateTime {
            month: 14,
            day: 32,
            hour: 25,
            ..DateTime::from_unix(0)
        };
        let carried = DateTime::from_unix(date.to_unix());
        assert_eq!(
            (carried.year, carried.month, carried.day, carried.hour),
            (1971, 3, 5, 1)
        );
    }
}
