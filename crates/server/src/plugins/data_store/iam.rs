//! Passwords that are tokens of AWS IAM: a presigned URL of the action `rds-db:connect`, made for
//! each connection and valid for a quarter of an hour.
//!
//! Source: "IAM database authentication" of RDS.

use std::fmt;

use async_trait::async_trait;
use signet_aws::{Access, Credentials};
use signet_base::chain;
use signet_store::postgres::Passwords;
use zeroize::Zeroizing;

use crate::plugins::aws;

/// Makes the tokens.
#[derive(Clone)]
pub struct Iam {
    region: String,
    access: Access,
    credentials: Credentials,
}

impl Iam {
    /// For one region.
    pub fn new(region: String, access: Access) -> Self {
        let credentials = aws::credentials(&region, &access, &signet_base::SystemClock::shared());
        Self { region, access, credentials }
    }
}

impl PartialEq for Iam {
    fn eq(&self, other: &Self) -> bool {
        self.region == other.region && self.access == other.access
    }
}

impl Eq for Iam {}

impl fmt::Debug for Iam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iam").field("region", &self.region).finish_non_exhaustive()
    }
}

#[async_trait]
impl Passwords for Iam {
    async fn password(
        &self,
        host: &str,
        port: u16,
        user: &str,
    ) -> Result<Zeroizing<String>, String> {
        let token = self.credentials.rds_token(&format!("{host}:{port}"), user).await;
        token.map_err(|error| chain(&error))
    }
}
