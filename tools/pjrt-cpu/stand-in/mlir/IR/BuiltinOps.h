// Stands in for MLIR's headers, which the wheel does not have. XLA's headers pass three MLIR classes by value or hold
// them, so these must have the same ABI: ModuleOp is one trivially copyable Operation*, OwningOpRef<ModuleOp> the same
// pointer with a destructor, MLIRContext one unique_ptr to its implementation. True of the version in wheel.txt.
#pragma once

namespace mlir {

class Operation {
 public:
  void erase();
};

class ModuleOp {
 public:
  Operation *operation() const { return operation_; }
  explicit operator bool() const { return operation_ != nullptr; }

 private:
  Operation *operation_ = nullptr;
};

template <class Op>
class OwningOpRef {
 public:
  OwningOpRef() = default;
  OwningOpRef(OwningOpRef &&other) : op_(other.op_) { other.op_ = Op(); }
  OwningOpRef &operator=(OwningOpRef &&other) {
    Op mine = op_;
    op_ = other.op_;
    other.op_ = mine;
    return *this;
  }
  ~OwningOpRef() {
    if (op_.operation()) op_.operation()->erase();
  }
  Op get() const { return op_; }

 private:
  Op op_;
};

class MLIRContext {
 public:
  enum class Threading { DISABLED, ENABLED };
  explicit MLIRContext(Threading);
  ~MLIRContext();

 private:
  void *impl_;
};

}  // namespace mlir
