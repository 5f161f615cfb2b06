//! What can be asked of policy. Each operation is an action of the base schema.
//!
//! Absent: the facts that come with it. Read next: `question`.

use std::fmt;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        /// What is asked. Each is an action of the base schema; `CallTool` and `Dispatch` are one action per tool.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation {
            $($(#[$doc])* $variant),+
        }

        impl Operation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name as Cedar and the stored form spell it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

operations! {
    /// Start an instance of a workflow.
    Start = "start",
    /// Call a tool that the agent carries out; the resource names it.
    CallTool = "callTool",
    /// Have a runner carry out a tool; the resource names it.
    Dispatch = "dispatch",
    /// Complete an instance.
    Complete = "complete",
    /// Terminate an instance.
    Terminate = "terminate",
    /// Freeze a team or the organization.
    Freeze = "freeze",
    /// Lift a freeze.
    Lift = "lift",
    /// APPROVE an item.
    Approve = "approve",
    /// REJECT a gate.
    Reject = "reject",
    /// OVERRIDE an item.
    Override = "override",
    /// Lift one rule of an item without its quorum.
    BreakGlass = "breakGlass",
    /// Approve a bounded scope in advance.
    GrantTask = "grantTask",
    /// Take such an approval back.
    RevokeGrant = "revokeGrant",
    /// Remind the approvers of a gate.
    Remind = "remind",
    /// Widen the circle of a gate's approvers.
    Escalate = "escalate",
    /// Expire a gate.
    Expire = "expire",
    /// Ask other approvers of a gate.
    Reassign = "reassign",
    /// Comment on a gate.
    Comment = "comment",
    /// Ask for information at a gate.
    RequestInformation = "requestInformation",
    /// Name a deputy for a person.
    SetDeputy = "setDeputy",
    /// Read an instance.
    ReadInstance = "readInstance",
    /// Read the full reason of a verdict, the log, its tiles and proofs.
    ReadVerdict = "readVerdict",
    /// Read a run and its output.
    ReadRun = "readRun",
    /// Read a gate.
    ReadGate = "readGate",
    /// Read a workflow.
    ReadWorkflow = "readWorkflow",
    /// List instances.
    ListInstances = "listInstances",
    /// List gates.
    ListGates = "listGates",
    /// List runs.
    ListRuns = "listRuns",
    /// List workflows.
    ListWorkflows = "listWorkflows",
    /// List persons, agents and services.
    ListPrincipals = "listPrincipals",
    /// List tools.
    ListTools = "listTools",
    /// Read the active policy.
    ReadPolicy = "readPolicy",
    /// Read settings.
    ReadSettings = "readSettings",
    /// Read the gateway's health in detail.
    ReadHealth = "readHealth",
    /// Explain, what-if, who-may, backtest.
    QueryPolicy = "queryPolicy",
    /// Export evidence.
    ExportPack = "exportPack",
    /// Create a person.
    CreatePerson = "createPerson",
    /// Register an agent.
    RegisterAgent = "registerAgent",
    /// Create a service.
    CreateService = "createService",
    /// Create a service account: a credential bound to an agent or a service.
    CreateServiceAccount = "createServiceAccount",
    /// Register a tool.
    RegisterTool = "registerTool",
    /// Register a workflow version.
    RegisterWorkflow = "registerWorkflow",
    /// Register a webhook.
    RegisterWebhook = "registerWebhook",
    /// Change settings.
    ManageSettings = "manageSettings",
    /// Rotate keys.
    RotateKeys = "rotateKeys",
    /// Recover from a bundle that locked everyone out.
    Recover = "recover",
    /// Change a person, an agent or a service.
    UpdatePrincipal = "updatePrincipal",
    /// Issue a credential for a person, an agent or a service.
    IssueToken = "issueToken",
    /// Revoke credentials of a person, an agent or a service.
    RevokeToken = "revokeToken",
    /// Ask for a verdict about someone else.
    EvaluateFor = "evaluateFor",
    /// Propose a policy bundle.
    ProposePolicy = "proposePolicy",
    /// Activate a policy bundle.
    ActivatePolicy = "activatePolicy",
    /// Set or lift a legal hold.
    SetLegalHold = "setLegalHold",
    /// Erase personal data.
    EraseData = "eraseData",
}

impl Operation {
    /// Whether it is a person's word at a gate; stale facts then deny.
    pub fn decides(self) -> bool {
        matches!(self, Self::Approve | Self::Reject | Self::Override | Self::BreakGlass | Self::GrantTask)
    }

    /// From its name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.as_str() == text)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
