//! What is true or false of an entry, in one number: the form of every store.

use signet_identity::EntrySpec;

const ADMIN: i64 = 1;
const DOWNSTREAM: i64 = 2;
const STORE_SVID: i64 = 4;
const DISABLE_PREFETCH: i64 = 8;
const INCLUDE_JTI: i64 = 16;
const TENANT_CLAIM: i64 = 32;

pub(crate) fn pack(entry: &EntrySpec) -> i64 {
    let flag = |set: bool, flag: i64| if set { flag } else { 0 };
    flag(entry.admin, ADMIN)
        | flag(entry.downstream, DOWNSTREAM)
        | flag(entry.store_svid, STORE_SVID)
        | flag(entry.disable_x509_svid_prefetch, DISABLE_PREFETCH)
        | flag(entry.jwt_svid_include_jti, INCLUDE_JTI)
        | flag(entry.jwt_svid_tenant_claim, TENANT_CLAIM)
}

pub(crate) fn unpack(flags: i64, draft: &mut EntrySpec) {
    draft.admin = flags & ADMIN != 0;
    draft.downstream = flags & DOWNSTREAM != 0;
    draft.store_svid = flags & STORE_SVID != 0;
    draft.disable_x509_svid_prefetch = flags & DISABLE_PREFETCH != 0;
    draft.jwt_svid_include_jti = flags & INCLUDE_JTI != 0;
    draft.jwt_svid_tenant_claim = flags & TENANT_CLAIM != 0;
}
