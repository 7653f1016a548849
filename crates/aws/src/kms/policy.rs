//! Who may use a key.

use serde_json::json;

use super::Kms;
use crate::AwsError;

/// The policy of new keys: that of the settings, or else one that gives the server's role
/// everything and lets the account look. `None` without a role, which leaves KMS's own in force.
pub(super) async fn of(kms: &Kms) -> Result<Option<String>, AwsError> {
    if let Some(policy) = &kms.0.settings.policy {
        return Ok(Some(policy.clone()));
    }
    let identity = kms.0.credentials.caller_identity().await?;
    let Some((partition, role)) = role_of(&identity.arn) else {
        tracing::warn!(
            arn = identity.arn,
            "The server has assumed no role: new keys get the default policy of KMS, by which the \
             account's own policies say who may use them; set key_policy_file or give the server a \
             role"
        );
        return Ok(None);
    };
    Ok(Some(for_role(partition, &identity.account, role)))
}

/// Of `arn:aws:sts::123:assumed-role/NAME/SESSION` the partition and the role's name.
fn role_of(arn: &str) -> Option<(&str, &str)> {
    let mut parts = arn.splitn(6, ':');
    let partition = parts.nth(1)?;
    let mut resource = parts.nth(3)?.split('/');
    (resource.next()? == "assumed-role").then_some(())?;
    resource.next().filter(|name| !name.is_empty()).map(|name| (partition, name))
}

fn for_role(partition: &str, account: &str, role: &str) -> String {
    let arn = |resource: &str| format!("arn:{partition}:iam::{account}:{resource}");
    json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ServerRoleMayDoEverything",
                "Effect": "Allow",
                "Principal": { "AWS": arn(&format!("role/{role}")) },
                "Action": "kms:*",
                "Resource": "*",
            },
            {
                "Sid": "AccountMayLook",
                "Effect": "Allow",
                "Principal": { "AWS": arn("root") },
                "Action": ["kms:Describe*", "kms:List*", "kms:Get*"],
                "Resource": "*",
            },
        ],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_that_of_the_session() {
        let session = "arn:aws-cn:sts::123456789012:assumed-role/spire/i-0001";
        assert_eq!(role_of(session), Some(("aws-cn", "spire")));
        for other in ["arn:aws:iam::1:user/bob", "arn:aws:sts::1:assumed-role/", "x", ""] {
            assert_eq!(role_of(other), None, "{other}");
        }
        let policy = for_role("aws-cn", "123456789012", "spire");
        assert!(policy.contains("arn:aws-cn:iam::123456789012:role/spire"), "{policy}");
    }
}
