package hydra.agent;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.Field;
import sun.misc.Unsafe;

/**
 * The JDK's own fields and methods, which no interface gives. {@code --add-opens} would open them to functions, and make every start slower:
 * see {@link Descriptors}.
 */
final class Internals {
    static final Unsafe UNSAFE = Descriptors.unsafe();
    /** May see and call everything. */
    private static final MethodHandles.Lookup LOOKUP = (MethodHandles.Lookup) staticValue(MethodHandles.Lookup.class, "IMPL_LOOKUP");

    private Internals() {}

    /** A class of the JDK by name, not initialised; null where this JDK has none. */
    static Class<?> find(String name) {
        try {
            return Class.forName(name, false, ClassLoader.getSystemClassLoader());
        } catch (ClassNotFoundException e) {
            return null;
        }
    }

    /** The value of a static field; null where there is no such field, or its class is not initialised. */
    static Object staticValue(Class<?> type, String name) {
        if (type == null || !isInitialised(type)) {
            return null;
        }
        try {
            Field field = type.getDeclaredField(name);
            return UNSAFE.getObject(UNSAFE.staticFieldBase(field), UNSAFE.staticFieldOffset(field));
        } catch (NoSuchFieldException e) {
            return null;
        }
    }

    /** Where an instance's field is; -1 if it has no such field. */
    static long offset(Class<?> type, String name) {
        try {
            return UNSAFE.objectFieldOffset(type.getDeclaredField(name));
        } catch (NoSuchFieldException e) {
            return -1;
        }
    }

    /** A method that is not public. */
    static MethodHandle method(Class<?> type, String name, MethodType signature) {
        try {
            return LOOKUP.findVirtual(type, name, signature);
        } catch (ReflectiveOperationException e) {
            throw new LinkageError("this JDK's " + type.getName() + " has no " + name + signature, e);
        }
    }

    /** A constructor that is not public; null where there is none. */
    static MethodHandle constructor(Class<?> type, Class<?>... parameters) {
        try {
            return LOOKUP.findConstructor(type, MethodType.methodType(void.class, parameters));
        } catch (ReflectiveOperationException e) {
            return null;
        }
    }

    /** Whether a class is; true where this JDK does not say. */
    @SuppressWarnings({"deprecation", "removal"}) // There is nothing else up to Java 21.
    static boolean isInitialised(Class<?> type) {
        try {
            return !UNSAFE.shouldBeInitialized(type);
        } catch (NoSuchMethodError gone) {
            return true; // Then it is initialised by being asked: at worst a class more.
        }
    }
}
