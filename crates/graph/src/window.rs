//! Windows on event time as data: which kinds there are, how they are cut into slices, which window holds what (pure).
//!
//! A row updates exactly one **slice**; windows are runs of whole slices. Tumbling: one slice. Hopping: slices of
//! gcd(size, slide). Cumulative: slices of one step. Sessions have no slices: their bounds depend on the rows.

use std::time::Duration;

use weir_core::Settings;

use crate::limits::WINDOWS_PER_ROW_MAX;

/// How event time is cut into windows. **Units**: microseconds. Windows are `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowSpec {
    /// Fixed windows side by side.
    Tumble {
        /// Length.
        size: i64,
        /// Shift of all bounds against 1970-01-01.
        offset: i64,
    },
    /// Fixed windows that overlap: one of length `size` begins every `slide`.
    Hop {
        /// Length.
        size: i64,
        /// Distance of beginnings.
        slide: i64,
        /// Shift of all bounds against 1970-01-01.
        offset: i64,
    },
    /// Windows that begin together every `size` and end one `step` after the other.
    Cumulate {
        /// Longest length.
        size: i64,
        /// Growth from one window to the next.
        step: i64,
        /// Shift of all bounds against 1970-01-01.
        offset: i64,
    },
    /// Runs of rows of one key no further than `gap` apart; rows exactly `gap` apart belong together, as in Flink.
    Session {
        /// Greatest distance inside a session; also how long a session lasts after its last row.
        gap: i64,
    },
    /// The windows the rows already carry in `window_start` and `window_end` (joins of window results).
    Same,
}

fn micros(duration: Duration) -> i64 {
    // Settings bound durations at a hundred years, far below i64::MAX microseconds.
    duration.as_micros() as i64
}

impl WindowSpec {
    /// Reads the `window` map of an operator; problems are recorded and a one-microsecond tumbling window stands in.
    pub fn read(operator: &Settings<'_>, allowed: &[&'static str]) -> WindowSpec {
        const STAND_IN: WindowSpec = WindowSpec::Tumble { size: 1, offset: 0 };
        let Some(settings) = operator.nested("window") else {
            if !operator.has("window") {
                operator.problem("window", "is missing: expected a map like {type: tumble, size: 1 min}");
            }
            return STAND_IN;
        };
        let kind = settings.choice("type", allowed);
        if kind.is_none() && !settings.has("type") {
            settings.problem("type", format!("is missing: expected one of {}", allowed.join(", ")));
        }
        let size = || micros(settings.required_duration("size"));
        let offset = || micros(settings.duration("offset").unwrap_or_default());
        let spec = match kind {
            Some("tumble") => WindowSpec::Tumble { size: size(), offset: offset() },
            Some("hop") => {
                WindowSpec::Hop { size: size(), slide: micros(settings.required_duration("slide")), offset: offset() }
            }
            Some("cumulate") => WindowSpec::Cumulate {
                size: size(),
                step: micros(settings.required_duration("step")),
                offset: offset(),
            },
            Some("session") => WindowSpec::Session { gap: micros(settings.required_duration("gap")) },
            Some("same") => WindowSpec::Same,
            _ => {
                for field in ["size", "slide", "step", "gap", "offset"] {
                    settings.allow(field);
                }
                STAND_IN
            }
        };
        spec.check(&settings);
        operator.absorb(settings.finish());
        spec
    }

    fn check(&self, settings: &Settings<'_>) {
        match *self {
            WindowSpec::Hop { size, slide, .. } if size > 1 && slide > 1 => {
                if slide > size {
                    settings.problem("slide", "must not be longer than size: rows between windows would be lost");
                } else if size / self.slice().max(1) > WINDOWS_PER_ROW_MAX {
                    let reason = format!(
                        "cuts a window into more than {WINDOWS_PER_ROW_MAX} slices; choose a slide that divides size"
                    );
                    settings.problem("slide", reason);
                }
            }
            WindowSpec::Cumulate { size, step, .. } if size > 1 && step > 1 => {
                if size % step != 0 {
                    settings.problem("step", "must divide size");
                } else if size / step > WINDOWS_PER_ROW_MAX {
                    settings.problem("step", format!("gives more than {WINDOWS_PER_ROW_MAX} windows in one size"));
                }
            }
            _ => {}
        }
    }

    /// Length of a slice; 0 for windows without slices.
    pub fn slice(&self) -> i64 {
        match *self {
            WindowSpec::Tumble { size, .. } => size,
            WindowSpec::Hop { size, slide, .. } => gcd(size, slide),
            WindowSpec::Cumulate { step, .. } => step,
            WindowSpec::Session { .. } | WindowSpec::Same => 0,
        }
    }

    fn offset(&self) -> i64 {
        match *self {
            WindowSpec::Tumble { offset, .. }
            | WindowSpec::Hop { offset, .. }
            | WindowSpec::Cumulate { offset, .. } => offset,
            WindowSpec::Session { .. } | WindowSpec::Same => 0,
        }
    }

    /// Start of the slice that holds `time`. Only for windows with slices.
    #[inline]
    pub fn slice_start(&self, time: i64) -> i64 {
        let (slice, offset) = (self.slice().max(1), self.offset());
        (time - offset).div_euclid(slice) * slice + offset
    }

    /// All windows `(start, end)` that contain the slice which begins at `slice_start`, in order of their ends.
    pub fn windows_of_slice(&self, slice_start: i64) -> Vec<(i64, i64)> {
        match *self {
            WindowSpec::Tumble { size, .. } => vec![(slice_start, slice_start + size)],
            WindowSpec::Hop { size, slide, offset } => {
                let slice_end = slice_start + self.slice();
                // The earliest window that still covers the slice's end, then every slide up to the slice's start.
                let mut start = (slice_end - size - offset + slide - 1).div_euclid(slide) * slide + offset;
                let mut windows = Vec::new();
                while start <= slice_start {
                    windows.push((start, start + size));
                    start += slide;
                }
                windows
            }
            WindowSpec::Cumulate { size, step, offset } => {
                let start = (slice_start - offset).div_euclid(size) * size + offset;
                let steps = size / step;
                let first = (slice_start - start) / step + 1;
                (first..=steps).map(|n| (start, start + n * step)).collect()
            }
            WindowSpec::Session { .. } | WindowSpec::Same => Vec::new(),
        }
    }

    /// End of the last window that contains the slice: when the watermark passes it, the slice can go.
    pub fn last_end_of_slice(&self, slice_start: i64) -> i64 {
        match *self {
            WindowSpec::Tumble { size, .. } => slice_start + size,
            WindowSpec::Hop { size, slide, offset } => (slice_start - offset).div_euclid(slide) * slide + offset + size,
            WindowSpec::Cumulate { size, offset, .. } => (slice_start - offset).div_euclid(size) * size + offset + size,
            WindowSpec::Session { .. } | WindowSpec::Same => i64::MAX,
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec() -> impl Strategy<Value = WindowSpec> {
        let offset = -50i64..50;
        prop_oneof![
            (1i64..100, offset.clone()).prop_map(|(size, offset)| WindowSpec::Tumble { size, offset }),
            (1i64..100, 1i64..100, offset.clone()).prop_map(|(a, b, offset)| WindowSpec::Hop {
                size: a.max(b),
                slide: a.min(b),
                offset
            }),
            (1i64..20, 1i64..10, offset).prop_map(|(step, n, offset)| WindowSpec::Cumulate {
                size: step * n,
                step,
                offset
            }),
        ]
    }

    /// The definition, window by window, without slices.
    fn windows_of_row(spec: WindowSpec, time: i64) -> Vec<(i64, i64)> {
        let all: Vec<(i64, i64)> = match spec {
            WindowSpec::Tumble { size, offset } => {
                (-500..500).map(|k| (k * size + offset, (k + 1) * size + offset)).collect()
            }
            WindowSpec::Hop { size, slide, offset } => {
                (-1000..1000).map(|k| (k * slide + offset, k * slide + offset + size)).collect()
            }
            WindowSpec::Cumulate { size, step, offset } => (-500..500)
                .flat_map(|k| (1..=size / step).map(move |n| (k * size + offset, k * size + offset + n * step)))
                .collect(),
            _ => Vec::new(),
        };
        all.into_iter().filter(|(start, end)| (*start..*end).contains(&time)).collect()
    }

    proptest! {
        #[test]
        fn slices_give_the_windows_of_the_definition(spec in spec(), time in -200i64..200) {
            let slice = spec.slice_start(time);
            prop_assert!((slice..slice + spec.slice()).contains(&time));
            let mut expected = windows_of_row(spec, time);
            expected.sort_by_key(|window| window.1);
            let found = spec.windows_of_slice(slice);
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(found.last().map(|window| window.1), Some(spec.last_end_of_slice(slice)));
        }
    }
}
