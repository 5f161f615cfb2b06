package countersign.bench

# One grant an agent, looked up by the agent's id: the same three things are compared as in the grants in Cedar.
default allow := false

allow if {
	grant := data.grants[input.subject.id]
	grant.actions[input.action.name]
	grant.resource == input.resource.id
	grant.env == input.context.env
}
