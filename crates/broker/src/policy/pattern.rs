//! Patterns of SPIFFE ID paths.

use std::{fmt, str::FromStr};

/// A pattern of the path of a SPIFFE ID: segments compared byte for byte, `*` for exactly one
/// segment, and `**` at the end for one or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPattern {
    segments: Vec<Segment>,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Exactly(String),
    One,
    Rest,
}

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a path such as /t/acme/orders, /t/acme/jobs/* or /t/acme/**, with * or ** as whole segments and ** at the end only"
)]
pub struct PatternError;

impl IdPattern {
    /// Whether a path fits.
    pub fn matches(&self, path: &str) -> bool {
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
        for pattern in &self.segments {
            let Some(segment) = segments.next().filter(|segment| !segment.is_empty()) else {
                return false;
            };
            match pattern {
                Segment::Exactly(text) if text != segment => return false,
                Segment::Rest => return true,
                Segment::Exactly(_) | Segment::One => {}
            }
        }
        segments.next().is_none()
    }

    /// The pattern as a glob in which a star stands for any characters, slashes too, as OpenBao has
    /// them; `None` when none says the same.
    pub fn glob(&self) -> Option<String> {
        if self.segments.contains(&Segment::One) {
            return None;
        }
        Some(
            self.text
                .strip_suffix("**")
                .map_or_else(|| self.text.clone(), |head| format!("{head}*")),
        )
    }

    /// Whether it names exactly one path.
    pub fn is_exact(&self) -> bool {
        self.segments.iter().all(|segment| matches!(segment, Segment::Exactly(_)))
    }

    /// Whether every path that fits begins with `prefix`, which ends with a slash.
    pub fn lies_below(&self, prefix: &str) -> bool {
        let mut fixed = String::from("/");
        for segment in &self.segments {
            match segment {
                Segment::Exactly(text) => {
                    fixed.push_str(text);
                    fixed.push('/');
                }
                Segment::One | Segment::Rest => break,
            }
        }
        fixed.starts_with(prefix)
            && (fixed.len() > prefix.len()
                || self.segments.iter().any(|s| !matches!(s, Segment::Exactly(_))))
    }
}

impl FromStr for IdPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let rest = text.strip_prefix('/').filter(|rest| !rest.is_empty()).ok_or(PatternError)?;
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            if segments.last() == Some(&Segment::Rest) {
                return Err(PatternError);
            }
            segments.push(match segment {
                "*" => Segment::One,
                "**" => Segment::Rest,
                "" | "." | ".." => return Err(PatternError),
                text if text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) =>
                {
                    Segment::Exactly(text.to_owned())
                }
                _ => return Err(PatternError),
            });
        }
        Ok(Self { segments, text: text.to_owned() })
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_whole_segments() {
        let fits = |pattern: &str, path: &str| pattern.parse::<IdPattern>().unwrap().matches(path);
        assert!(fits("/t/acme/orders", "/t/acme/orders"));
        assert!(!fits("/t/acme/orders", "/t/acme/orders/x"));
        assert!(!fits("/t/acme/orders", "/t/acme/order"));
        assert!(fits("/t/*/orders", "/t/acme/orders"));
        assert!(!fits("/t/*", "/t/acme/orders"));
        assert!(fits("/t/acme/**", "/t/acme/a/b"));
        assert!(!fits("/t/acme/**", "/t/acme"));
        assert!(!fits("/t/acme/**", "/t/acmee/a"));
        for bad in ["", "/", "t", "/a//b", "/a/../b", "/a/**/b", "/a*", "/a/", "/ä", "/%61"] {
            assert!(bad.parse::<IdPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_below_a_path_can_leave_it_by_no_star() {
        let below = |pattern: &str| pattern.parse::<IdPattern>().unwrap().lies_below("/t/acme/");
        assert!(below("/t/acme/orders") && below("/t/acme/*") && below("/t/acme/**"));
        assert!(!below("/t/*/orders") && !below("/t/acme") && !below("/t/acmee/x"));
        assert!(!below("/**"));
    }
}
