//! The profile of the shared files `~/.aws/config` and `~/.aws/credentials`.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{Credentials, Keys, MAX_DEPTH, Place, Source, of_environment};
use crate::AwsError;

/// The largest file that is read, bytes.
const MAX_FILE: u64 = 1024 * 1024;

type Settings = HashMap<String, Zeroizing<String>>;
type Profiles = BTreeMap<String, Settings>;

/// Where the profile in use says keys are; none when it is not there or says nothing of them.
pub(super) fn source(place: &Place) -> Result<Option<Source>, AwsError> {
    let environment = &place.environment;
    let named = environment.get("AWS_PROFILE");
    let home = environment.get("HOME").map(PathBuf::from);
    let path = |variable: &str, file: &str| {
        let set = environment.get(variable).map(PathBuf::from);
        set.or_else(|| home.as_ref().map(|home| home.join(".aws").join(file)))
    };
    let mut profiles = Profiles::new();
    for (variable, file, is_config) in
        [("AWS_CONFIG_FILE", "config", true), ("AWS_SHARED_CREDENTIALS_FILE", "credentials", false)]
    {
        if let Some(path) = path(variable, file) {
            read(&path, is_config, &mut profiles)?;
        }
    }
    let name = named.as_deref().unwrap_or("default");
    if !profiles.contains_key(name) {
        return match named {
            Some(name) => Err(AwsError::Credentials(format!("there is no profile {name:?}"))),
            None => Ok(None),
        };
    }
    of(place, &profiles, name, 0)
}

fn of(
    place: &Place,
    profiles: &Profiles,
    name: &str,
    depth: u8,
) -> Result<Option<Source>, AwsError> {
    let wrong = |why: String| AwsError::Credentials(format!("profile {name:?}: {why}"));
    let profile =
        profiles.get(name).ok_or_else(|| wrong("there is no profile of this name".to_owned()))?;
    let get = |key: &str| profile.get(key).map(|value| &***value).filter(|v| !v.is_empty());
    let role = get("role_arn");
    if let (Some(role), Some(file)) = (role, get("web_identity_token_file")) {
        return Ok(Some(Source::WebIdentity(file.into(), role.to_owned())));
    }
    if let Some(role) = role {
        if depth >= MAX_DEPTH {
            return Err(wrong("too many profiles are built upon one another".to_owned()));
        }
        if get("mfa_serial").is_some() {
            return Err(wrong("mfa_serial needs somebody who types".to_owned()));
        }
        let base = match (get("source_profile"), get("credential_source")) {
            // Its own keys, as AWS's programs understand it.
            (Some(source), None) if source == name => own_keys(&get),
            (Some(source), None) => of(place, profiles, source, depth + 1)?,
            (None, Some("Environment")) => of_environment(&place.environment).map(Source::Fixed),
            (None, Some("EcsContainer")) => Some(Source::Container),
            (None, Some("Ec2InstanceMetadata")) => Some(Source::Instance),
            _ => {
                let why = "role_arn needs source_profile or credential_source, one of both";
                return Err(wrong(why.to_owned()));
            }
        };
        let base = base.ok_or_else(|| wrong("it is built upon what has no keys".to_owned()))?;
        let base = Credentials::of(place.clone(), base);
        return Ok(Some(Source::Role(base, role.to_owned())));
    }
    if let Some(keys) = own_keys(&get) {
        return Ok(Some(keys));
    }
    for key in ["credential_process", "sso_session", "sso_start_url"] {
        if get(key).is_some() {
            return Err(wrong(format!("{key} is not supported; use keys or a role")));
        }
    }
    Ok(None)
}

fn own_keys<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Option<Source> {
    let (id, secret) = (get("aws_access_key_id")?, get("aws_secret_access_key")?);
    Some(Source::Fixed(Keys::new(id, secret, get("aws_session_token"))))
}

/// Adds what a file says; one that is not there says nothing.
fn read(path: &Path, is_config: bool, profiles: &mut Profiles) -> Result<(), AwsError> {
    let failed = |why: &dyn std::fmt::Display| AwsError::File(format!("{}: {why}", path.display()));
    match fs::metadata(path) {
        Ok(found) if found.len() > MAX_FILE => {
            return Err(failed(&format!("it is larger than {MAX_FILE} bytes")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A home that one may not look into has no file for us.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => return Err(failed(&error)),
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| failed(&error))?);
    parse(&text, is_config, profiles);
    Ok(())
}

/// `[profile name]` in the file `config`, `[name]` in the other; below it `key = value`. What is
/// indented belongs to a key without a value and is for other programs.
fn parse(text: &str, is_config: bool, profiles: &mut Profiles) {
    let mut current: Option<&mut Settings> = None;
    for line in text.lines() {
        if line.starts_with([' ', '\t', '#', ';']) || line.trim().is_empty() {
            continue;
        }
        if let Some(header) = line.trim().strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default().trim();
            let name = match (is_config, header.strip_prefix("profile ")) {
                (true, Some(name)) => Some(name.trim().trim_matches(['"', '\''])),
                (true, None) if header != "default" => None,
                _ => Some(header),
            };
            current = name.map(|name| profiles.entry(name.to_owned()).or_default());
            continue;
        }
        let (Some(profile), Some((key, value))) = (&mut current, line.split_once('=')) else {
            continue;
        };
        let value = value.split(" #").next().unwrap_or_default();
        let value = value.split(" ;").next().unwrap_or_default().trim();
        let key = key.trim().to_ascii_lowercase();
        profile.insert(key, Zeroizing::new(value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use signet_base::SystemClock;

    use super::*;
    use crate::Environment;

    const CONFIG: &str = "
[default]
region = x
[profile \"keys\"]
aws_access_key_id = AK1 # mine
aws_secret_access_key=S=1
s3 =
  max_concurrent_requests = 20
[profile role]
role_arn = arn:r
source_profile = keys
[profile web]
role_arn = arn:w
web_identity_token_file = /token
[profile a]
role_arn = arn:a
source_profile = b
[profile b]
role_arn = arn:b
source_profile = a
[profile sso]
sso_session = s
[sso-session s]
aws_access_key_id = AK9
";

    fn found(profile: &str) -> Result<Option<Source>, String> {
        let mut profiles = Profiles::new();
        parse(CONFIG, true, &mut profiles);
        parse("[keys]\naws_access_key_id = AK2\n", false, &mut profiles);
        let place = Place::new("x", Environment::from_fn(|_| None), SystemClock::shared());
        of(&place, &profiles, profile, 0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_profile_names_keys_or_a_role() {
        assert!(found("default").unwrap().is_none());
        let Some(Source::Fixed(keys)) = found("keys").unwrap() else { panic!() };
        assert_eq!((&*keys.id, &**keys.secret), ("AK2", "S=1"));
        assert!(matches!(found("role").unwrap(), Some(Source::Role(_, arn)) if arn == "arn:r"));
        let Some(Source::WebIdentity(file, _)) = found("web").unwrap() else { panic!() };
        assert_eq!(file, Path::new("/token"));
        for (profile, why) in
            [("a", "too many profiles"), ("sso", "sso_session is not"), ("z", "there is no")]
        {
            let error = found(profile).err().unwrap();
            assert!(error.contains(why), "{profile}: {error}");
        }
    }
}
