//! What a caller may send: how long a message, within which time, and how much at once.
//!
//! A gRPC message says its length before it comes. So room for it is taken from the caller's budget
//! first, and whoever sends a hundred messages by halves holds no more than the budget.

use std::{
    collections::HashMap,
    hash::Hash,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::{Status, body::Body, codegen::StdError};

/// The length of a gRPC frame header: a compression flag and a length.
const HEADER_LEN: usize = 5;

/// How many bytes of messages a caller may have under way, over all its calls. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }
}

/// The budgets of all callers, by what tells them apart.
#[derive(Debug)]
pub struct Budgets<K>(Mutex<HashMap<K, Weak<Semaphore>>>);

impl<K> Default for Budgets<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Budgets<K> {
    /// The budget of a caller; a new one of so many bytes unless somebody still keeps one.
    pub fn of(&self, caller: K, bytes: usize) -> Budget {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = budgets.get(&caller).and_then(Weak::upgrade) {
            return Budget(budget);
        }
        // The table grows by doubling, so looking through it costs each call but a little.
        if budgets.len() == budgets.capacity() {
            budgets.retain(|_, budget| budget.strong_count() > 0);
        }
        let budget = Budget::new(bytes);
        budgets.insert(caller, Arc::downgrade(&budget.0));
        budget
    }
}

/// What becomes of a message for which the budget has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// It waits, in order; what flow control allows is in memory meanwhile.
    Wait,
    /// Its call is refused.
    Refuse,
}

/// How many messages a call is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// One, or a few in a row: each has its deadline, and the last one's room is taken until the
    /// call ends.
    Few,
    /// A stream that may be silent for hours: only the first message, and those that have begun,
    /// have a deadline. The room of a message is free again when the next one is awaited.
    Stream,
}

/// The limits of one call's messages.
#[derive(Clone, Debug)]
pub struct Intake {
    /// How many messages come.
    pub messages: Messages,
    /// The longest message, bytes.
    pub max_message: usize,
    /// How long a message may take to arrive, from when it is awaited.
    pub deadline: Duration,
    /// Where its bytes are taken from.
    pub budget: Budget,
    /// What happens when that has none left.
    pub no_room: NoRoom,
}

/// What the last message of a call took of the budget, given back when this is dropped. To be kept
/// while the call is worked on: the message is in memory until then.
#[derive(Clone, Debug, Default)]
pub struct Taken(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Taken {
    fn put(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

impl Intake {
    /// The body of a request within these limits. Where they are exceeded it fails with
    /// `ResourceExhausted` or `DeadlineExceeded`.
    pub fn body<B>(self, inner: B) -> (Body, Taken)
    where
        B: HttpBody<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
    {
        let taken = Taken::default();
        let body = Limited {
            inner,
            limits: self,
            taken: taken.clone(),
            silent: false,
            header: Vec::new(),
            left: 0,
            held: Bytes::new(),
            acquiring: None,
            deadline: None,
        };
        (Body::new(body), taken)
    }
}

/// The body of an answer that holds something until it is read or given up.
pub fn holding<B, T>(inner: B, held: T) -> Body
where
    B: HttpBody<Data = Bytes, Error: Into<StdError>> + Send + Unpin + 'static,
    T: Send + Unpin + 'static,
{
    Body::new(Holding { inner, _held: held })
}

struct Holding<B, T> {
    inner: B,
    _held: T,
}

impl<B: HttpBody + Unpin, T: Unpin> HttpBody for Holding<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

type Acquiring = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

struct Limited<B> {
    inner: B,
    limits: Intake,
    taken: Taken,
    /// A message of a stream is complete, and the next one has not begun.
    silent: bool,
    /// The header of the message that comes next, as far as it is there.
    header: Vec<u8>,
    /// How many bytes of the present message are still to be passed on.
    left: usize,
    /// What has come and was not passed on.
    held: Bytes,
    acquiring: Option<Acquiring>,
    deadline: Option<Pin<Box<Sleep>>>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl<B> Limited<B>
where
    B: HttpBody<Data = Bytes, Error: Into<StdError>> + Unpin,
{
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.silent {
            self.taken.put(None);
        }
        loop {
            if let Some(acquiring) = &mut self.acquiring {
                // The budget's semaphore is never closed.
                let permit = ready!(acquiring.as_mut().poll(cx)).ok();
                self.acquiring = None;
                self.taken.put(permit);
                return self.pass_header();
            }
            if !self.held.is_empty() {
                if self.left > 0 {
                    let part = self.held.split_to(self.left.min(self.held.len()));
                    self.left -= part.len();
                    self.complete();
                    return Poll::Ready(Some(Ok(Frame::data(part))));
                }
                let part = self
                    .held
                    .split_to(HEADER_LEN.saturating_sub(self.header.len()).min(self.held.len()));
                self.header.extend_from_slice(&part);
                self.silent = false;
                if self.header.len() < HEADER_LEN {
                    continue;
                }
                match self.announced() {
                    Ok(true) => return self.pass_header(),
                    Ok(false) => continue,
                    Err(status) => return Poll::Ready(Some(Err(status))),
                }
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                None => return Poll::Ready(None),
            }
        }
    }

    /// Takes room for the message whose header is there. False when that has to be awaited.
    fn announced(&mut self) -> Result<bool, Status> {
        let length = self.length();
        let max = self.limits.max_message;
        if length > max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {max})"
            )));
        }
        // What the message before took is free again, or two could wait for each other.
        self.taken.put(None);
        let budget = Arc::clone(&self.limits.budget.0);
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        match (self.limits.no_room, Arc::clone(&budget).try_acquire_many_owned(bytes)) {
            (_, Ok(permit)) => {
                self.taken.put(Some(permit));
                Ok(true)
            }
            (NoRoom::Wait, Err(_)) => {
                self.acquiring = Some(Box::pin(budget.acquire_many_owned(bytes)));
                Ok(false)
            }
            (NoRoom::Refuse, Err(_)) => {
                Err(Status::resource_exhausted("too many requests of this caller are under way"))
            }
        }
    }

    /// Notes whether the present message has come as a whole.
    fn complete(&mut self) {
        if self.left == 0 {
            self.deadline = None;
            self.silent = self.limits.messages == Messages::Stream;
        }
    }

    fn length(&self) -> usize {
        let mut header = self.header.as_slice();
        if header.len() < HEADER_LEN {
            return 0;
        }
        header.advance(1);
        usize::try_from(header.get_u32()).unwrap_or(usize::MAX)
    }

    fn pass_header(&mut self) -> Polled {
        self.left = self.length();
        self.complete();
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.header).into()))))
    }
}

impl<B> HttpBody for Limited<B>
where
    B: HttpBody<Data = Bytes, Error: Into<StdError>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        let polled = this.poll_message(cx);
        if polled.is_pending() && !this.silent {
            let within = this.limits.deadline;
            let deadline =
                this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Status::deadline_exceeded(
                "the request did not arrive in time",
            ))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.acquiring.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tonic::Code;

    use super::*;

    /// Gives these parts, then waits for ever or ends.
    struct Parts(VecDeque<Bytes>, bool);

    impl HttpBody for Parts {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            match self.0.pop_front() {
                Some(part) => Poll::Ready(Some(Ok(Frame::data(part)))),
                None if self.1 => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.extend(vec![7; length]);
        bytes
    }

    fn intake(budget: &Budget, no_room: NoRoom) -> Intake {
        let deadline = Duration::from_secs(10);
        let messages = Messages::Few;
        Intake { messages, max_message: 100, deadline, budget: budget.clone(), no_room }
    }

    fn parts(bytes: &[u8], chunk: usize, ends: bool) -> Parts {
        Parts(bytes.chunks(chunk).map(Bytes::copy_from_slice).collect(), ends)
    }

    async fn read(body: &mut Body) -> Result<Vec<u8>, Status> {
        let mut all = Vec::new();
        loop {
            match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                Some(Ok(frame)) => all.extend(frame.into_data().unwrap()),
                Some(Err(status)) => return Err(status),
                None => return Ok(all),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_pass_as_they_are_however_they_are_cut() {
        let budget = Budget::new(150);
        let sent = [message(0), message(100), message(3)].concat();
        for chunk in [1, 4, 7, 1000] {
            let (mut body, taken) = intake(&budget, NoRoom::Refuse).body(parts(&sent, chunk, true));
            assert_eq!(read(&mut body).await.unwrap(), sent, "in parts of {chunk}");
            assert_eq!(budget.0.available_permits(), 147, "the last one counts");
            drop((body, taken));
            assert_eq!(budget.0.available_permits(), 150);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_too_long_is_refused_before_it_comes() {
        let budget = Budget::new(150);
        let (mut body, _) = intake(&budget, NoRoom::Wait).body(parts(&message(101)[..5], 5, false));
        let refused = read(&mut body).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(refused.message(), "grpc: received message larger than max (101 vs. 100)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_stops_half_way_ends_in_time_and_gives_its_room_back() {
        let budget = Budget::new(150);
        for sent in [0, 3, 5, 60] {
            let begun = tokio::time::Instant::now();
            let half = &message(100)[..sent];
            let (mut body, _) = intake(&budget, NoRoom::Wait).body(parts(half, 10, false));
            let refused = read(&mut body).await.unwrap_err();
            assert_eq!((refused.code(), begun.elapsed().as_secs()), (Code::DeadlineExceeded, 10));
            drop(body);
            assert_eq!(budget.0.available_permits(), 150, "after {sent} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_may_be_silent_between_messages_and_holds_no_room_meanwhile() {
        let budget = Budget::new(150);
        let streamed = |sent: &[u8]| {
            let limits = Intake { messages: Messages::Stream, ..intake(&budget, NoRoom::Wait) };
            limits.body(parts(sent, 1000, false))
        };
        let hour = Duration::from_secs(3600);
        let (mut body, _taken) = streamed(&message(100));
        assert!(tokio::time::timeout(hour, read(&mut body)).await.is_err(), "it goes on");
        assert_eq!(budget.0.available_permits(), 150);
        // The first message, and one that has begun, have their deadline.
        for sent in [Vec::new(), [message(100), message(100)[..50].to_vec()].concat()] {
            let (mut body, _taken) = streamed(&sent);
            let refused = tokio::time::timeout(hour, read(&mut body)).await.expect("in time");
            assert_eq!(refused.unwrap_err().code(), Code::DeadlineExceeded);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn halves_of_many_messages_hold_no_more_than_the_budget() {
        let budget = Budget::new(150);
        let half = message(100)[..50].to_vec();
        let (mut first, _) = intake(&budget, NoRoom::Refuse).body(parts(&half, 50, false));
        assert!(tokio::time::timeout(Duration::ZERO, read(&mut first)).await.is_err());
        let (mut second, _) = intake(&budget, NoRoom::Refuse).body(parts(&half, 50, false));
        assert_eq!(read(&mut second).await.unwrap_err().code(), Code::ResourceExhausted);
        // One that may wait has its turn once the first one's time is over.
        let whole = message(100);
        let (mut third, _) = intake(&budget, NoRoom::Wait).body(parts(&whole, 50, true));
        let first = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(first);
        };
        let (third, ()) = tokio::join!(read(&mut third), first);
        assert_eq!(third.unwrap(), whole);
    }
}
