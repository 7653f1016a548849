//! Who is logged in: one-time codes, and the sessions that they are exchanged for.
//!
//! Both live in memory alone: a restart logs everybody out. `P` is who a session stands for; the
//! server's own rules decide what that may do, anew for each request.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// How long a one-time code can be used.
pub const CODE_LIFE: Duration = Duration::from_secs(60);
/// A session ends after so long without a request.
pub const IDLE: Duration = Duration::from_secs(30 * 60);
/// A session ends after so long in any case.
pub const LIFE: Duration = Duration::from_secs(8 * 3600);
/// Codes that are waiting to be used, at most.
const MAX_CODES: usize = 16;
/// Sessions at most; the one that was idle the longest makes room.
const MAX_SESSIONS: usize = 256;

/// A secret of 122 random bits that a client holds. It has no `Debug` that shows it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    fn fresh() -> Self {
        // Version 4: random but for six bits; two of them make up for those.
        let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        Self(URL_SAFE_NO_PAD.encode([a.into_bytes(), b.into_bytes()].concat()))
    }

    /// For the client who is to hold it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A session as its owner and others may see it.
#[derive(Clone, Debug)]
pub struct Session<P> {
    /// Names the session where it is listed and ended; no secret.
    pub id: u64,
    /// Whom it stands for.
    pub peer: P,
    /// What a form must send along ([`crate::guard`]).
    pub csrf: Secret,
    began: Instant,
    used: Instant,
}

impl<P> Session<P> {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.used) > IDLE || now.duration_since(self.began) > LIFE
    }
}

/// Codes and sessions.
#[derive(Debug)]
pub struct Sessions<P> {
    codes: HashMap<Secret, (P, Instant)>,
    open: HashMap<Secret, Session<P>>,
    next: u64,
}

impl<P> Default for Sessions<P> {
    fn default() -> Self {
        Self { codes: HashMap::new(), open: HashMap::new(), next: 1 }
    }
}

impl<P: Clone> Sessions<P> {
    /// A code that `peer` can be logged in with, once, within [`CODE_LIFE`]. `None` when too many
    /// wait already.
    pub fn code(&mut self, peer: P, now: Instant) -> Option<Secret> {
        self.codes.retain(|_, (_, made)| now.duration_since(*made) <= CODE_LIFE);
        if self.codes.len() >= MAX_CODES {
            return None;
        }
        let code = Secret::fresh();
        self.codes.insert(code.clone(), (peer, now));
        Some(code)
    }

    /// Takes a code and opens a session: the secret for the cookie. `None` for a code that is
    /// unknown, spent or too old. Looking it up by hash tells nothing of how much of it was right.
    pub fn exchange(&mut self, code: &str, now: Instant) -> Option<Secret> {
        let (peer, made) = self.codes.remove(&Secret(code.to_owned()))?;
        if now.duration_since(made) > CODE_LIFE {
            return None;
        }
        self.open.retain(|_, session| !session.is_over(now));
        if self.open.len() >= MAX_SESSIONS {
            let oldest = self.open.iter().min_by_key(|(_, session)| session.used);
            if let Some(secret) = oldest.map(|(secret, _)| secret.clone()) {
                self.open.remove(&secret);
            }
        }
        let secret = Secret::fresh();
        let id = self.next;
        self.next += 1;
        let session = Session { id, peer, csrf: Secret::fresh(), began: now, used: now };
        self.open.insert(secret.clone(), session);
        Some(secret)
    }

    /// The session of a cookie, which is in use again.
    pub fn find(&mut self, cookie: &str, now: Instant) -> Option<Session<P>> {
        let key = Secret(cookie.to_owned());
        let session = self.open.get_mut(&key)?;
        if session.is_over(now) {
            self.open.remove(&key);
            return None;
        }
        session.used = now;
        Some(session.clone())
    }

    /// Ends the session of a cookie.
    pub fn end(&mut self, cookie: &str) {
        self.open.remove(&Secret(cookie.to_owned()));
    }

    /// How many sessions are open.
    pub fn count(&mut self, now: Instant) -> usize {
        self.open.retain(|_, session| !session.is_over(now));
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_good_once_and_for_a_minute() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let code = sessions.code("admin", now).unwrap();
        let cookie = sessions.exchange(code.reveal(), now).unwrap();
        assert_eq!(sessions.exchange(code.reveal(), now), None, "spent");
        assert_eq!(sessions.find(cookie.reveal(), now).unwrap().peer, "admin");
        let late = sessions.code("admin", now).unwrap();
        assert_eq!(sessions.exchange(late.reveal(), now + CODE_LIFE * 2), None);
        assert_eq!(sessions.exchange("", now), None);
        assert!(code.reveal().len() >= 40 && code != late);
        assert!(!format!("{sessions:?}").contains(cookie.reveal()));
    }

    #[test]
    fn a_session_ends_when_idle_too_long_at_its_age_and_when_told() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        let code = sessions.code((), start).unwrap();
        let cookie = sessions.exchange(code.reveal(), start).unwrap();
        let mut now = start;
        while now.duration_since(start) + IDLE / 2 <= LIFE {
            now += IDLE / 2;
            assert!(sessions.find(cookie.reveal(), now).is_some());
        }
        assert!(sessions.find(cookie.reveal(), now + IDLE / 2 + IDLE / 4).is_none(), "its age");

        let code = sessions.code((), now).unwrap();
        let cookie = sessions.exchange(code.reveal(), now).unwrap();
        assert!(sessions.find(cookie.reveal(), now + IDLE * 2).is_none(), "idle");
        let code = sessions.code((), now).unwrap();
        let cookie = sessions.exchange(code.reveal(), now).unwrap();
        sessions.end(cookie.reveal());
        assert!(sessions.find(cookie.reveal(), now).is_none(), "told");
    }

    #[test]
    fn codes_and_sessions_are_bounded() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        for _ in 0..MAX_CODES {
            assert!(sessions.code((), now).is_some());
        }
        assert!(sessions.code((), now).is_none());
        let later = now + CODE_LIFE * 2;
        for _ in 0..MAX_SESSIONS + 10 {
            let code = sessions.code((), later).unwrap();
            sessions.exchange(code.reveal(), later).unwrap();
        }
        assert_eq!(sessions.count(later), MAX_SESSIONS);
    }
}
