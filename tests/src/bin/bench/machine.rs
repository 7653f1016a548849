//! How fast this machine is now, told by work that stays the same.
//!
//! The CPU that work takes is no property of the work alone: on a machine that others use too, or
//! whose cores are halves of one, it takes twice as much in one hour as in another. A goal of CPU is
//! held against that.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use signet_pki::{KeyType, PrivateKey, SignatureAlgorithm, Signer, pop::verify_ecdsa_der};

/// CPU that a round takes on the two cores that the goals were set on, with nothing else running.
const REFERENCE: Duration = Duration::from_micros(200);
/// How long the work is done.
const DURATION: Duration = Duration::from_millis(300);

/// How many times more CPU the same work takes here and now than where the goals were set.
///
/// # Errors
/// When the work cannot be done.
pub fn slowness() -> anyhow::Result<f64> {
    Ok(each_round()? / REFERENCE.as_secs_f64())
}

/// Seconds of CPU that a round takes. Two threads hand a message to each other and back, as the
/// threads of a server do, and each does a little of what servers do before it answers.
fn each_round() -> anyhow::Result<f64> {
    let (here, there) = UnixStream::pair().context("a pair of sockets")?;
    let other = thread::spawn(move || answer(there));
    let asked = ask(here);
    let answered = other.join().ok().context("a thread panicked")?;
    let (rounds, cpu) = asked?;
    Ok((cpu + answered?).as_secs_f64() / f64::from(rounds))
}

/// Begins rounds for [`DURATION`]: how many, and the CPU of this thread.
fn ask(mut stream: UnixStream) -> anyhow::Result<(u32, Duration)> {
    let key = PrivateKey::generate(KeyType::EcP256)?.signer()?;
    let (begun, cpu, mut rounds) = (Instant::now(), own_cpu()?, 0);
    let mut message = [7; 512];
    while begun.elapsed() < DURATION {
        sign_and_verify(&*key, &message)?;
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        rounds += 1;
    }
    Ok((rounds, own_cpu()? - cpu))
}

/// Answers until the other side has gone; the CPU of this thread.
fn answer(mut stream: UnixStream) -> anyhow::Result<Duration> {
    let mut file = tempfile::tempfile().context("a temporary file")?;
    let cpu = own_cpu()?;
    let mut message = [0; 512];
    while stream.read_exact(&mut message).is_ok() {
        let texts =
            (0..200_u32).map(|at| (at.wrapping_mul(2_654_435_761).to_string(), vec![7; 99]));
        let map: BTreeMap<String, Vec<u8>> = texts.collect();
        let (_, bytes) = map.first_key_value().context("an entry")?;
        file.write_all(bytes).and_then(|()| file.sync_data()).context("a temporary file")?;
        message.fill(bytes.first().copied().unwrap_or_default());
        stream.write_all(&message)?;
    }
    Ok(own_cpu()? - cpu)
}

fn sign_and_verify(key: &dyn Signer, message: &[u8]) -> anyhow::Result<()> {
    let signature = key.sign(SignatureAlgorithm::EcdsaP256Sha256, message)?;
    verify_ecdsa_der(key.public_key(), message, &signature).ok().context("a signature")
}

fn own_cpu() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading a CPU clock")?.into())
}
