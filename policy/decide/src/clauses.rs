//! What is left of a policy once its scopes hold, in the form that is evaluated a million times. Internal.
//!
//! Cedar hangs the source text on every node of an expression and hands it on with every value: two counters that all
//! threads write, for each node, for a place that only an error message could name. The copies made here have none.
//! The full walk evaluates what Cedar parsed, so a copy that means something else is noticed by the same property test.
//! Absent: evaluation. Read next: `snapshot`, `explain`.

use std::sync::Arc;

use cedar_policy_core::ast::{Expr, ExprKind};

/// The same expression without its places.
pub(crate) fn placeless(expr: &Expr) -> Expr {
    let all = |items: &[Expr]| items.iter().map(placeless).collect::<Vec<_>>();
    match expr.expr_kind() {
        ExprKind::Lit(literal) => Expr::val(literal.clone()),
        ExprKind::Var(var) => Expr::var(*var),
        ExprKind::If { test_expr, then_expr, else_expr } => {
            Expr::ite(placeless(test_expr), placeless(then_expr), placeless(else_expr))
        }
        ExprKind::And { left, right } => Expr::and(placeless(left), placeless(right)),
        ExprKind::Or { left, right } => Expr::or(placeless(left), placeless(right)),
        ExprKind::UnaryApp { op, arg } => Expr::unary_app(*op, placeless(arg)),
        ExprKind::BinaryApp { op, arg1, arg2 } => Expr::binary_app(*op, placeless(arg1), placeless(arg2)),
        ExprKind::ExtensionFunctionApp { fn_name, args } => Expr::call_extension_fn(fn_name.clone(), all(args)),
        ExprKind::GetAttr { expr, attr } => Expr::get_attr(placeless(expr), attr.clone()),
        ExprKind::HasAttr { expr, attr } => Expr::has_attr(placeless(expr), attr.clone()),
        ExprKind::ExtHasAttr { expr, attrs } => Expr::extended_has_attr(placeless(expr), attrs.clone()),
        ExprKind::Like { expr, pattern } => Expr::like(placeless(expr), pattern.clone()),
        ExprKind::Is { expr, entity_type } => Expr::is_entity_type(placeless(expr), entity_type.clone()),
        ExprKind::Set(items) => Expr::set(all(items)),
        ExprKind::Record(members) => {
            Expr::record_arc(Arc::new(members.iter().map(|(key, value)| (key.clone(), placeless(value))).collect()))
        }
        // Slots and unknowns stand in no static policy.
        ExprKind::Slot(_) | ExprKind::Unknown(_) => expr.clone(),
    }
}
