//! What to tell a relying party.

use serde_json::json;

use super::{Facts, Target};

/// Commands and policies to paste; what only the operator knows is in capitals.
pub fn text(target: Target, facts: &Facts) -> String {
    let Facts { issuer, audience, token, .. } = facts;
    let subject = token.as_ref().and_then(|token| token.claim("sub"));
    let subject = subject.unwrap_or("spiffe://TRUST_DOMAIN/WORKLOAD");
    match target {
        Target::Aws => aws(issuer, audience, subject),
        Target::Entra => entra(issuer, audience, subject),
        Target::Gcp => gcp(issuer, audience, subject),
        Target::Openbao => openbao(issuer, audience, subject),
    }
}

fn aws(issuer: &str, audience: &str, subject: &str) -> String {
    let provider = issuer.strip_prefix("https://").unwrap_or(issuer);
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {
                "Federated": format!("arn:aws:iam::ACCOUNT_ID:oidc-provider/{provider}"),
            },
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": { "StringEquals": {
                format!("{provider}:aud"): audience,
                format!("{provider}:sub"): subject,
            } },
        }],
    });
    format!(
        "aws iam create-open-id-connect-provider --url {} --client-id-list {}\n\n\
         The trust policy of the role:\n{policy:#}\n",
        quoted(issuer),
        quoted(audience)
    )
}

fn entra(issuer: &str, audience: &str, subject: &str) -> String {
    let parameters = json!({
        "name": "CREDENTIAL_NAME",
        "issuer": issuer,
        "subject": subject,
        "audiences": [audience],
    });
    format!(
        "az ad app federated-credential create --id APP_ID --parameters {}\n",
        quoted(&parameters.to_string())
    )
}

fn gcp(issuer: &str, audience: &str, subject: &str) -> String {
    let audiences = match audience.contains("/workloadIdentityPools/") {
        true => String::new(),
        false => format!(" \\\n  --allowed-audiences={}", quoted(audience)),
    };
    // A subject may have 127 bytes.
    let mapping = match subject.len() > 127 {
        true => "google.subject=assertion.sub.extract('spiffe://TRUST_DOMAIN/{path}')",
        false => "google.subject=assertion.sub",
    };
    format!(
        "gcloud iam workload-identity-pools providers create-oidc PROVIDER \\\n  \
         --location=global --workload-identity-pool=POOL \\\n  --issuer-uri={}{audiences} \\\n  \
         --attribute-mapping={}\n\n\
         gcloud iam service-accounts add-iam-policy-binding SERVICE_ACCOUNT \\\n  \
         --role=roles/iam.workloadIdentityUser \\\n  --member={}\n",
        quoted(issuer),
        quoted(mapping),
        quoted(&format!(
            "principal://iam.googleapis.com/projects/NUMBER/locations/global/\
             workloadIdentityPools/POOL/subject/{subject}"
        ))
    )
}

fn openbao(issuer: &str, audience: &str, subject: &str) -> String {
    let (issuer, audience, subject) = (quoted(issuer), quoted(audience), quoted(subject));
    format!(
        "bao auth enable jwt\n\
         bao write auth/jwt/config oidc_discovery_url={issuer} bound_issuer={issuer}\n\
         bao write auth/jwt/role/ROLE role_type=jwt user_claim=sub \\\n  \
         bound_audiences={audience} bound_subject={subject} \\\n  \
         expiration_leeway=10 not_before_leeway=10 clock_skew_leeway=10 \\\n  \
         token_policies=POLICY token_ttl=5m token_max_ttl=1h\n"
    )
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=,+%".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_pasted_is_quoted() {
        assert_eq!(quoted("https://a.test:1/x"), "https://a.test:1/x");
        assert_eq!(quoted("a b'c$(x)"), "'a b'\\''c$(x)'");
        assert_eq!(quoted(""), "''");
        let text = aws("https://a.test/x", "aud", "spiffe://td/w");
        assert!(text.contains("arn:aws:iam::ACCOUNT_ID:oidc-provider/a.test/x"), "{text}");
        assert!(text.contains("\"a.test/x:sub\": \"spiffe://td/w\""), "{text}");
        let long = format!("spiffe://td/{}", "w".repeat(200));
        assert!(gcp("https://a.test", "x", &long).contains("extract"));
    }
}
