//! Where new ids and salts come from. The engine asks; the program (or a seeded test) answers.

use countersign_gateway_model::{
    ActionId, DecisionId, GateId, GrantId, InstanceId, ItemId, PermitId, Pseudonym, RunId,
};
use countersign_ledger_entry::payload::Salt;

/// A source of ids that sort by time, and of secret randomness.
pub trait Mint: Send + Sync + 'static {
    /// 128 bits that no one has used: a `UUIDv7`.
    fn id(&self) -> [u8; 16];

    /// 32 bytes that no one can guess.
    fn secret(&self) -> [u8; 32];
}

macro_rules! minted {
    ($($name:ident -> $id:ident),+ $(,)?) => {
        /// Ids by kind.
        pub trait MintExt: Mint {
            $(
                /// A new id of this kind.
                fn $name(&self) -> $id {
                    $id::from_bytes(self.id())
                }
            )+

            /// A new salt.
            fn salt(&self) -> Salt {
                Salt(self.secret())
            }

            /// A pseudonym: 128 random bits, no time in it.
            fn pseudonym(&self) -> Pseudonym {
                let [bytes @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.secret();
                Pseudonym::from_bytes(bytes)
            }
        }

        impl<M: Mint + ?Sized> MintExt for M {}
    };
}

minted!(
    instance -> InstanceId,
    action -> ActionId,
    gate -> GateId,
    item -> ItemId,
    decision -> DecisionId,
    permit -> PermitId,
    run -> RunId,
    grant -> GrantId,
);
