//! `entry`: registration entries.

mod data;
mod explain;
mod flags;
mod print;
mod warnings;

use std::{collections::BTreeSet, io::IsTerminal as _};

use prost::Message as _;
use signet_api::{
    MAX_MESSAGE_SIZE, json,
    pb::{
        signet::api::server::tenancy::v1 as tenancy,
        spire::api::{
            server::{
                bundle::v1::{self as bundle_pb, bundle_client::BundleClient},
                entry::v1::{self as pb, entry_client::EntryClient},
            },
            types,
        },
    },
    status,
};
use signet_base::SystemClock;
use signet_daemon::cli::Output;
use signet_time::UnixTime;
use tonic::{Code, transport::Channel};

use self::flags::{CreateFlags, FilterFlags, UpdateFlags};
use super::{
    env::{CliError, CommonFlags, Env, MAX_ANSWER, code_name},
    tenant, text,
};

/// How many entries are asked for, or sent, at a time.
const BATCH: usize = 500;
/// How many bytes of entries are sent at a time: receivers take 4 MiB.
const BATCH_BYTES: usize = MAX_MESSAGE_SIZE / 2;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Count entries
    Count(CountFlags),
    /// Create an entry, or many from a file
    #[command(after_help = CREATE_EXAMPLE)]
    Create(Box<CreateFlags>),
    /// Delete an entry, or many from a file
    Delete(DeleteFlags),
    /// Say why a workload behind an agent gets the identities it gets
    #[command(after_help = explain::EXAMPLE)]
    Explain(explain::Flags),
    /// Show entries
    Show(ShowFlags),
    /// Replace an entry, or many from a file
    Update(Box<UpdateFlags>),
}

const CREATE_EXAMPLE: &str = "\
Example: processes of user 1000 on one agent get spiffe://example.org/web

  signet-server entry create -spiffeID spiffe://example.org/web \\
      -parentID spiffe://example.org/spire/agent/join_token/... -selector unix:uid:1000

A file for -data holds {\"entries\": [{\"spiffe_id\": \"spiffe://...\", \"parent_id\": \"spiffe://...\",
\"selectors\": [{\"type\": \"unix\", \"value\": \"uid:1000\"}], ...}]}.";

/// Which entries to count.
#[derive(Debug, clap::Args)]
pub struct CountFlags {
    #[command(flatten)]
    filter: FilterFlags,
    #[command(flatten)]
    common: CommonFlags,
}

/// Which entries to delete.
#[derive(Debug, clap::Args)]
pub struct DeleteFlags {
    /// ID of the entry to delete
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    /// File with {"ids": ["...", ...]}, or - for standard input
    #[arg(long = "file", value_name = "FILE", conflicts_with = "entry_id")]
    file: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// Which entries to show.
#[derive(Debug, clap::Args)]
pub struct ShowFlags {
    /// Only the entry with this ID
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    #[command(flatten)]
    filter: FilterFlags,
    #[command(flatten)]
    common: CommonFlags,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    match command {
        Command::Count(flags) => count(flags, env).await,
        Command::Create(flags) => create(*flags, env).await,
        Command::Delete(flags) => delete(flags, env).await,
        Command::Explain(flags) => explain::run(flags, env).await,
        Command::Show(flags) => show(flags, env).await,
        Command::Update(flags) => update(*flags, env).await,
    }
}

async fn count(flags: CountFlags, env: &mut Env) -> Result<(), CliError> {
    let filter = flags.filter.read()?;
    let filter = pb::count_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    };
    let mut client = EntryClient::new(env.connect(&flags.common.socket).await?);
    let request = pb::CountEntriesRequest { filter: Some(filter) };
    let response = client.count_entries(request).await?.into_inner();
    if flags.common.output == Output::Json {
        return env.json(&response);
    }
    let n = usize::try_from(response.count).unwrap_or_default();
    env.line(text::counted(n, "registration entry", "registration entries"))
}

async fn create(flags: CreateFlags, env: &mut Env) -> Result<(), CliError> {
    let entries = flags.entries(env)?;
    warnings::warn(&entries, now(), env)?;
    let channel = env.connect(&flags.common().socket).await?;
    let mut client = EntryClient::new(channel.clone());
    let mut progress = Progress::new("create", &entries);
    let owner = flags.owner();
    for batch in batches(&entries) {
        if let Some(owner) = &owner {
            let request = tenancy::BatchCreateEntryRequest { entries: owned(batch, owner) };
            let response = tenant::client(channel.clone()).batch_create_entry(request).await;
            progress.add_owned(response, env)?;
            continue;
        }
        let request = pb::BatchCreateEntryRequest { entries: batch.to_vec(), output_mask: None };
        let response = client.batch_create_entry(request).await;
        let answers = response.map_err(|status| progress.stopped(status))?.into_inner();
        progress.add(answers.results.into_iter().map(|one| (one.status, one.entry)), env)?;
    }
    let results = echoed(entries, progress.results);
    if flags.common().output == Output::Json {
        let results = results.iter().cloned().map(|(status, entry)| {
            pb::batch_create_entry_response::Result { status: Some(status), entry: Some(entry) }
        });
        env.json(&pb::BatchCreateEntryResponse { results: results.collect() })?;
    } else {
        let pending = pending(results.iter().map(|(_, entry)| entry), channel.clone()).await?;
        print_results(env, "create", &results, &pending, owner.as_ref())?;
    }
    let written: Vec<types::Entry> =
        results.iter().filter(|one| is_good(one)).map(|(_, entry)| entry.clone()).collect();
    warnings::warn_of_parents(&written, channel, env).await?;
    all_good(&results, "failed to create one or more entries")
}

async fn update(flags: UpdateFlags, env: &mut Env) -> Result<(), CliError> {
    let entries = flags.entries(env)?;
    warnings::warn(&entries, now(), env)?;
    let channel = env.connect(&flags.common().socket).await?;
    let mut client = EntryClient::new(channel.clone());
    let mut progress = Progress::new("update", &entries);
    let owner = flags.owner();
    for batch in batches(&entries) {
        if let Some(owner) = &owner {
            let entries = owned(batch, owner);
            let request = tenancy::BatchUpdateEntryRequest { entries, input_mask: None };
            let response = tenant::client(channel.clone()).batch_update_entry(request).await;
            progress.add_owned(response, env)?;
            continue;
        }
        let request = pb::BatchUpdateEntryRequest {
            entries: batch.to_vec(),
            input_mask: None,
            output_mask: None,
        };
        let response = client.batch_update_entry(request).await;
        let answers = response.map_err(|status| progress.stopped(status))?.into_inner();
        progress.add(answers.results.into_iter().map(|one| (one.status, one.entry)), env)?;
    }
    let results = echoed(entries, progress.results);
    if flags.common().output == Output::Json {
        let results = results.iter().cloned().map(|(status, entry)| {
            pb::batch_update_entry_response::Result { status: Some(status), entry: Some(entry) }
        });
        env.json(&pb::BatchUpdateEntryResponse { results: results.collect() })?;
    } else {
        let pending = pending(results.iter().map(|(_, entry)| entry), channel).await?;
        print_results(env, "update", &results, &pending, owner.as_ref())?;
    }
    all_good(&results, "failed to update one or more entries")
}

async fn delete(flags: DeleteFlags, env: &mut Env) -> Result<(), CliError> {
    let ids = match (&flags.entry_id, &flags.file) {
        (_, Some(file)) => data::ids(&env.read(file)?, file, env)?,
        (Some(id), None) if !id.is_empty() => vec![id.clone()],
        _ => return Err(CliError::usage("an entry ID is required: name it with -entryID")),
    };
    let mut client = EntryClient::new(env.connect(&flags.common.socket).await?);
    let mut results = Vec::with_capacity(ids.len());
    for batch in ids.chunks(BATCH) {
        let request = pb::BatchDeleteEntryRequest { ids: batch.to_vec() };
        let response = client.batch_delete_entry(request).await;
        let response = response.map_err(CliError::call("failed to delete entries"))?;
        results.extend(response.into_inner().results);
    }
    let failed = results.iter().filter(|one| !status::is_ok(one.status.as_ref())).count();
    if flags.common.output == Output::Json {
        env.json(&pb::BatchDeleteEntryResponse { results: results.clone() })?;
    } else {
        for one in &results {
            let status = one.status.clone().unwrap_or_else(status::item_ok);
            if status::is_ok(Some(&status)) {
                env.line(format_args!("Deleted entry with ID: {}", one.id))?;
            } else {
                env.complain(format_args!(
                    "Failed to delete entry with ID {} (code: {}, msg: {:?})",
                    one.id,
                    code_name(Code::from(status.code)),
                    status.message
                ))?;
            }
        }
        let good = results.len() - failed;
        env.line(match (good, failed) {
            (good, 0) => format!("\nDeleted {good} entries successfully"),
            (0, failed) => format!("\nFailed to delete {failed} entries"),
            (good, failed) => format!(
                "\nDeleted {good} entries successfully, but failed to delete {failed} entries"
            ),
        })?;
    }
    if failed > 0 {
        return Err(CliError::failed("failed to delete one or more entries"));
    }
    Ok(())
}

async fn show(flags: ShowFlags, env: &mut Env) -> Result<(), CliError> {
    let entry_id = flags.entry_id.as_deref().filter(|id| !id.is_empty());
    if entry_id.is_some() && flags.filter.names_something() {
        return Err(CliError::usage("the -entryID flag can't be combined with others"));
    }
    let filter = flags.filter.read()?;
    let channel = env.connect(&flags.common.socket).await?;
    let mut client = EntryClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let mut entries = match entry_id {
        Some(id) => {
            let request = pb::GetEntryRequest { id: id.to_owned(), output_mask: None };
            let entry = client.get_entry(request).await;
            let what = format!("error fetching entry ID {id}");
            vec![entry.map_err(CliError::call(what))?.into_inner()]
        }
        None => all(&mut client, filter).await?,
    };
    print::sort(&mut entries);
    let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
    let owners = tenant::of_entries(channel.clone(), &ids).await?;
    if flags.common.output == Output::Json {
        let listed = pb::ListEntriesResponse { entries, next_page_token: String::new() };
        return env.json_value(&print::with_tenants(json::to_value(&listed), &owners));
    }
    env.line(format_args!("Found {}", text::counted(entries.len(), "entry", "entries")))?;
    let pending = pending(entries.iter(), channel).await?;
    for entry in &entries {
        env.line(print::entry(entry, &pending, owners.get(&entry.id)))?;
    }
    Ok(())
}

/// The trust domains that entries federate with and whose bundles the server does not have.
async fn pending(
    entries: impl Iterator<Item = &types::Entry>,
    channel: Channel,
) -> Result<BTreeSet<String>, CliError> {
    let mut names: BTreeSet<String> =
        entries.flat_map(|entry| entry.federates_with.iter().cloned()).collect();
    if names.is_empty() {
        return Ok(names);
    }
    let mut client = BundleClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    // Only their names.
    let request = bundle_pb::ListFederatedBundlesRequest {
        output_mask: Some(types::BundleMask::default()),
        ..Default::default()
    };
    let listed = client.list_federated_bundles(request).await;
    let listed = listed.map_err(CliError::call("error fetching federated bundles"))?.into_inner();
    for bundle in listed.bundles {
        names.remove(&bundle.trust_domain);
    }
    Ok(names)
}

async fn all(
    client: &mut EntryClient<Channel>,
    filter: pb::list_entries_request::Filter,
) -> Result<Vec<types::Entry>, CliError> {
    let mut entries = Vec::new();
    let mut request = pb::ListEntriesRequest {
        filter: Some(filter),
        output_mask: None,
        page_size: i32::try_from(BATCH).unwrap_or(i32::MAX),
        page_token: String::new(),
    };
    loop {
        let page = client.list_entries(request.clone()).await;
        let page = page.map_err(CliError::call("error fetching entries"))?.into_inner();
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            return Ok(entries);
        }
        request.page_token = page.next_page_token;
    }
}

/// Cuts entries into calls of at most [`BATCH`] entries, each small enough to be received.
fn batches(mut entries: &[types::Entry]) -> Vec<&[types::Entry]> {
    let mut out = Vec::new();
    while !entries.is_empty() {
        let mut bytes = 0;
        let fits = entries.iter().take(BATCH).take_while(|entry| {
            bytes += entry.encoded_len();
            bytes <= BATCH_BYTES
        });
        let (batch, rest) = entries.split_at(fits.count().max(1));
        out.push(batch);
        entries = rest;
    }
    out
}

type Outcome = (types::Status, types::Entry);

/// Each outcome with its entry: as stored, or, when it failed, as it was asked for.
fn echoed(
    asked: Vec<types::Entry>,
    results: Vec<(Option<types::Status>, Option<types::Entry>)>,
) -> Vec<Outcome> {
    let mut results = results.into_iter();
    asked
        .into_iter()
        .map(|asked| {
            let (status, entry) = results.next().unwrap_or_else(|| {
                (Some(status::item(Code::Internal, "no answer for this entry")), None)
            });
            let status = status.unwrap_or_else(status::item_ok);
            let entry = if status::is_ok(Some(&status)) { entry } else { None };
            (status, entry.unwrap_or(asked))
        })
        .collect()
}

/// What came of the entries of a file so far.
struct Progress {
    verb: &'static str,
    total: usize,
    results: Vec<(Option<types::Status>, Option<types::Entry>)>,
}

impl Progress {
    fn new(verb: &'static str, entries: &[types::Entry]) -> Self {
        Self { verb, total: entries.len(), results: Vec::with_capacity(entries.len()) }
    }

    /// Takes the answers of one call. Where there are several calls, a person is told how far they
    /// are.
    fn add(
        &mut self,
        answers: impl Iterator<Item = (Option<types::Status>, Option<types::Entry>)>,
        env: &mut Env,
    ) -> Result<(), CliError> {
        self.results.extend(answers);
        if self.total > BATCH && std::io::stderr().is_terminal() {
            env.complain(format_args!("{} of {} entries sent", self.results.len(), self.total))?;
        }
        Ok(())
    }

    /// The same for entries with a tenant.
    fn add_owned(
        &mut self,
        response: Result<tonic::Response<tenancy::BatchEntryResponse>, tonic::Status>,
        env: &mut Env,
    ) -> Result<(), CliError> {
        let answers = response.map_err(|status| match status.code() {
            Code::Unimplemented => tenant::understood(status),
            _ => self.stopped(status),
        })?;
        let answers = answers.into_inner().results.into_iter();
        self.add(answers.map(|one| (one.status, one.entry.and_then(|it| it.entry))), env)
    }

    /// The failure of a call, with what came of those before it.
    fn stopped(&self, status: tonic::Status) -> CliError {
        let good = self.results.iter().filter(|(status, _)| status::is_ok(status.as_ref())).count();
        let what = match self.results.len() {
            0 => format!("failed to {} entries", self.verb),
            sent => format!(
                "failed to {} entries after {good} of {} had been written and {} refused",
                self.verb,
                self.total,
                sent - good
            ),
        };
        CliError::call(what)(status)
    }
}

fn is_good((status, _): &Outcome) -> bool {
    status::is_ok(Some(status))
}

fn now() -> UnixTime {
    SystemClock::shared().unix()
}

/// Entries of one tenant.
fn owned(entries: &[types::Entry], owner: &tenancy::EntryTenant) -> Vec<tenancy::TenantEntry> {
    let owned = entries.iter().map(|entry| tenancy::TenantEntry {
        entry: Some(entry.clone()),
        tenant: Some(owner.clone()),
    });
    owned.collect()
}

fn print_results(
    env: &mut Env,
    verb: &str,
    results: &[Outcome],
    pending: &BTreeSet<String>,
    owner: Option<&tenancy::EntryTenant>,
) -> Result<(), CliError> {
    for (_, entry) in results.iter().filter(|one| is_good(one)) {
        env.line(print::entry(entry, pending, owner))?;
    }
    for (status, entry) in results.iter().filter(|one| !is_good(one)) {
        env.complain(format_args!(
            "Failed to {verb} the following entry (code: {}, msg: {:?}):",
            code_name(Code::from(status.code)),
            status.message
        ))?;
        env.complain(print::entry(entry, pending, owner))?;
    }
    if results.len() > 1 {
        let good = results.iter().filter(|one| is_good(one)).count();
        let failed = results.len() - good;
        env.complain(format_args!("{good} entries {verb}d, {failed} failed"))?;
    }
    Ok(())
}

fn all_good(results: &[Outcome], otherwise: &str) -> Result<(), CliError> {
    if results.iter().all(|(status, _)| status::is_ok(Some(status))) {
        return Ok(());
    }
    Err(CliError::failed(otherwise))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_in_number_and_size_and_lose_nothing() {
        let entry = |len: usize| types::Entry { hint: "x".repeat(len), ..Default::default() };
        for (entries, expected) in [
            (vec![entry(1); 1201], vec![500, 500, 201]),
            (vec![entry(BATCH_BYTES); 2], vec![1, 1]),
            (vec![entry(BATCH_BYTES / 2 - 10); 3], vec![2, 1]),
            (Vec::new(), Vec::new()),
        ] {
            let sizes: Vec<usize> = batches(&entries).iter().map(|batch| batch.len()).collect();
            assert_eq!(sizes, expected);
        }
    }
}
