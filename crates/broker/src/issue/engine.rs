//! What each engine of OpenBao is asked, and what comes back.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    bao::{BaoCall, BaoError},
    policy::{Credential, Engine},
    reason::{Denial, Reason},
};

/// The longest parameter, bytes.
const MAX_PARAMETER: usize = 32 * 1024;

/// What a caller asks for beyond the name.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// A shorter life than the policy allows.
    pub ttl: Option<Duration>,
    /// A CSR, an operation with its input, and so on.
    pub parameters: Map<String, Value>,
}

/// A call of an engine, ready to be made.
#[derive(Clone, Debug)]
pub(super) struct EngineCall {
    method: &'static str,
    path: String,
    body: Option<Value>,
    wrap: Option<Duration>,
}

/// What was drawn. Holds a secret.
pub(super) struct Drawn {
    /// OpenBao's name of the lease, if it is one.
    pub(super) lease: Option<String>,
    /// How long it lives, seconds.
    pub(super) life: i64,
    /// Whether it can be renewed.
    pub(super) renewable: bool,
    /// The secret.
    pub(super) data: Value,
}

impl EngineCall {
    pub(super) fn with<'a>(
        &'a self,
        namespace: &'a str,
        token: &'a str,
        correlation: &'a str,
    ) -> BaoCall<'a> {
        BaoCall {
            namespace,
            token: Some(token),
            method: self.method,
            path: &self.path,
            body: self.body.as_ref(),
            wrap: self.wrap,
            correlation,
        }
    }
}

impl Drawn {
    pub(super) fn read(call: &EngineCall, mut answer: Value) -> Result<Self, BaoError> {
        if call.wrap.is_some() {
            let wrap = answer.get_mut("wrap_info").map(Value::take).unwrap_or_default();
            let life = wrap.get("ttl").and_then(Value::as_i64).unwrap_or_default();
            let token = wrap.get("token").cloned().unwrap_or_default();
            if !token.is_string() {
                let why = "no wrap_info".to_owned();
                return Err(BaoError::Malformed { path: call.path.clone(), why });
            }
            let data = json!({ "wrapping_token": token, "wrapping_ttl": life });
            return Ok(Self { lease: None, life, renewable: false, data });
        }
        let lease = answer.get("lease_id").and_then(Value::as_str).filter(|id| !id.is_empty());
        Ok(Self {
            lease: lease.map(str::to_owned),
            life: answer.get("lease_duration").and_then(Value::as_i64).unwrap_or_default(),
            renewable: answer.get("renewable").and_then(Value::as_bool).unwrap_or_default(),
            data: answer.get_mut("data").map(Value::take).unwrap_or_default(),
        })
    }
}

/// The call for a credential.
///
/// # Errors
/// [`Denial`] when a parameter is none of this engine's, or one is missing.
pub(super) fn call(
    credential: &Credential,
    ask: &Ask,
    ttl: Duration,
) -> Result<EngineCall, Denial> {
    let mount = &credential.mount;
    let get = |path: String| (("GET", path), None);
    let seconds = format!("{}s", ttl.as_secs());
    let ((method, path), body) = match &credential.engine {
        Engine::Aws { role, sts: true } => {
            no_more(ask, &[])?;
            (("POST", format!("{mount}/sts/{role}")), Some(json!({ "ttl": seconds })))
        }
        Engine::Aws { role, sts: false } | Engine::Database { role, .. } => {
            no_more(ask, &[])?;
            get(format!("{mount}/creds/{role}"))
        }
        Engine::Kv { path } => {
            no_more(ask, &[])?;
            get(format!("{mount}/data/{path}"))
        }
        Engine::Pki { role } => {
            no_more(ask, &["csr", "common_name", "alt_names", "uri_sans"])?;
            required(ask, "csr")?;
            let mut body = ask.parameters.clone();
            body.insert("ttl".to_owned(), Value::String(seconds));
            (("POST", format!("{mount}/sign/{role}")), Some(Value::Object(body)))
        }
        Engine::Transit { key, operations } => {
            let operation = required(ask, "operation")?;
            if !operations.iter().any(|allowed| allowed == operation) {
                let text = format!("operation: expected one of {}", operations.join(", "));
                return Err(Denial::new(Reason::Parameter, text));
            }
            let takes: &[&str] = match operation {
                "encrypt" => &["plaintext", "context", "associated_data"],
                "decrypt" => &["ciphertext", "context", "associated_data"],
                "verify" => &["input", "signature", "hmac"],
                _ => &["input"],
            };
            no_more(ask, &[&["operation"], takes].concat())?;
            let mut body = ask.parameters.clone();
            body.remove("operation");
            (("POST", format!("{mount}/{operation}/{key}")), Some(Value::Object(body)))
        }
    };
    Ok(EngineCall { method, path, body, wrap: credential.wrap })
}

fn required<'a>(ask: &'a Ask, name: &str) -> Result<&'a str, Denial> {
    ask.parameters.get(name).and_then(Value::as_str).ok_or_else(|| {
        Denial::new(Reason::Parameter, format!("parameters.{name}: expected a text"))
    })
}

/// Parameters are texts of these names and no others: what else OpenBao's engines take is for the
/// operator's roles to say.
fn no_more(ask: &Ask, names: &[&str]) -> Result<(), Denial> {
    for (name, value) in &ask.parameters {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        if !names.contains(&name.as_str()) {
            let expected = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let text = format!("parameters.{shown} is not taken; expected {expected}");
            return Err(Denial::new(Reason::Parameter, text));
        }
        if value.as_str().is_none_or(|text| text.len() > MAX_PARAMETER) {
            let text =
                format!("parameters.{shown}: expected a text of at most {MAX_PARAMETER} bytes");
            return Err(Denial::new(Reason::Parameter, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(engine: Engine) -> Credential {
        Credential {
            name: "c".to_owned(),
            mount: "m".to_owned(),
            engine,
            ttl: Duration::from_secs(60),
            max_uses: None,
            wrap: None,
        }
    }

    fn ask(parameters: Value) -> Ask {
        Ask { ttl: None, parameters: parameters.as_object().cloned().unwrap() }
    }

    fn made(engine: Engine, parameters: Value) -> Result<(String, Option<Value>), Reason> {
        call(&credential(engine), &ask(parameters), Duration::from_secs(60))
            .map(|call| (format!("{} {}", call.method, call.path), call.body))
            .map_err(|denial| denial.reason)
    }

    #[test]
    fn each_engine_is_asked_at_its_own_place() {
        let role = || "r".to_owned();
        let database = made(Engine::Database { role: role(), setup: None }, json!({})).unwrap();
        assert_eq!(database, ("GET m/creds/r".to_owned(), None));
        let kv = made(Engine::Kv { path: "a/b".to_owned() }, json!({})).unwrap();
        assert_eq!(kv.0, "GET m/data/a/b");
        let sts = made(Engine::Aws { role: role(), sts: true }, json!({})).unwrap();
        assert_eq!(sts, ("POST m/sts/r".to_owned(), Some(json!({"ttl": "60s"}))));
        let (place, body) = made(Engine::Pki { role: role() }, json!({"csr": "x"})).unwrap();
        assert_eq!((&*place, body), ("POST m/sign/r", Some(json!({"csr": "x", "ttl": "60s"}))));
    }

    #[test]
    fn a_parameter_that_is_not_of_the_engine_is_refused() {
        let transit =
            || Engine::Transit { key: "k".to_owned(), operations: vec!["encrypt".to_owned()] };
        let good = made(transit(), json!({"operation": "encrypt", "plaintext": "eA=="}));
        assert_eq!(good.unwrap().0, "POST m/encrypt/k");
        for (engine, parameters) in [
            (transit(), json!({"operation": "decrypt", "ciphertext": "x"})),
            (transit(), json!({"operation": "encrypt/../../x"})),
            (transit(), json!({"plaintext": "x"})),
            (transit(), json!({"operation": "encrypt", "key_version": "1"})),
            (transit(), json!({"operation": "encrypt", "plaintext": 7})),
            (Engine::Database { role: "r".to_owned(), setup: None }, json!({"ttl": "99h"})),
            (Engine::Pki { role: "r".to_owned() }, json!({"csr": "x", "ttl": "99h"})),
            (Engine::Pki { role: "r".to_owned() }, json!({})),
        ] {
            assert_eq!(made(engine, parameters.clone()), Err(Reason::Parameter), "{parameters}");
        }
    }

    #[test]
    fn a_wrapped_answer_holds_no_secret() {
        let mut call = call(
            &credential(Engine::Database { role: "r".to_owned(), setup: None }),
            &Ask::default(),
            Duration::from_secs(60),
        )
        .unwrap();
        call.wrap = Some(Duration::from_secs(30));
        let answer = json!({"wrap_info": {"token": "s.w", "ttl": 30}, "data": null});
        let drawn = Drawn::read(&call, answer).unwrap();
        assert_eq!(drawn.data, json!({"wrapping_token": "s.w", "wrapping_ttl": 30}));
        assert!(Drawn::read(&call, json!({"data": {"password": "x"}})).is_err());
    }
}
