package hydra.agent;

import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.Map;

/**
 * A function's method: found by the registered name, called with one argument. It is called by core reflection, not by a method
 * handle: the first handle of a process costs 10 ms, in which the JVM generates its adapters, the first reflective call
 * microseconds; once warm, both are a direct call.
 */
final class EntryPoint {
    /** What the method wants; of several methods of one name, the first kind here is taken. */
    enum Takes { MAP, STRING, OBJECT }

    private static final String SHAPES = "write one as public static Map main(Map), String main(String) or Object main(Object)";

    final Takes takes;
    private final Method method;
    /** What an instance method is called on; null for a static one. */
    private final Object receiver;
    private final Object[] arguments = new Object[1];

    private EntryPoint(Takes takes, Method method, Object receiver) {
        this.takes = takes;
        this.method = method;
        this.receiver = receiver;
    }

    /** Calls the method, and throws what it throws. */
    Object call(Object argument) throws Throwable {
        arguments[0] = argument;
        try {
            return method.invoke(receiver, arguments);
        } catch (InvocationTargetException e) {
            throw e.getCause();
        } finally {
            arguments[0] = null;
        }
    }

    /** Calls the static method of that name and without parameters of the entry point's class, if there is one, and throws what it throws. */
    void callHook(String name) throws Throwable {
        Method hook;
        try {
            hook = method.getDeclaringClass().getDeclaredMethod(name);
        } catch (NoSuchMethodException e) {
            return;
        }
        if (!Modifier.isStatic(hook.getModifiers())) {
            return;
        }
        hook.setAccessible(true);
        try {
            hook.invoke(null);
        } catch (InvocationTargetException e) {
            throw e.getCause();
        }
    }

    /** Finds {@code name}, a class or {@code class.method}; null asks for the code's main class. */
    static EntryPoint find(CodeLoader loader, String name) throws LoadException {
        String className = name;
        String methodName = "main";
        if (className == null || className.isEmpty()) {
            className = loader.defaultClass();
            if (className == null) {
                throw new LoadException(ClassNotFoundException.class,
                        "entryPoint is missing and no jar names a Main-Class; " + loader.describeClasses());
            }
        }
        Class<?> type = load(loader, className);
        int dot = className.lastIndexOf('.');
        if (type == null && dot > 0) {
            type = load(loader, className.substring(0, dot));
            methodName = className.substring(dot + 1);
        }
        if (type == null) {
            throw new LoadException(ClassNotFoundException.class,
                    "there is no class " + className + "; " + loader.describeClasses());
        }
        Method method = method(type, methodName);
        return bind(type, method);
    }

    /** The class, initialised, or null if there is none of this name. */
    private static Class<?> load(CodeLoader loader, String name) throws LoadException {
        try {
            return Class.forName(name, true, loader);
        } catch (ClassNotFoundException e) {
            return null;
        } catch (ExceptionInInitializerError e) {
            Throwable cause = e.getCause() == null ? e : e.getCause();
            throw new LoadException("the class " + name + " could not be initialised: " + cause, e);
        } catch (UnsupportedClassVersionError e) {
            throw new LoadException("the class " + name + " was compiled for a newer Java than " + System.getProperty("java.version")
                    + "; compile it with --release " + Runtime.version().feature() + ": " + e.getMessage(), e);
        } catch (NoClassDefFoundError e) {
            throw new LoadException("the class " + name + " cannot be loaded, as a class is not where it should be: " + e.getMessage(), e);
        } catch (LinkageError e) {
            throw new LoadException("the class " + name + " cannot be loaded: " + e, e);
        }
    }

    private static Method method(Class<?> type, String name) throws LoadException {
        Method best = null;
        boolean javaMain = false;
        for (Class<?> at = type; at != null && at != Object.class; at = at.getSuperclass()) {
            for (Method method : at.getDeclaredMethods()) {
                if (!method.getName().equals(name) || method.isSynthetic() || Modifier.isPrivate(method.getModifiers())) {
                    continue;
                }
                javaMain |= method.getParameterCount() == 1 && method.getParameterTypes()[0] == String[].class;
                Takes takes = takes(method);
                if (takes != null && (best == null || takes.compareTo(takes(best)) < 0)) {
                    best = method;
                }
            }
        }
        if (best != null) {
            return best;
        }
        String what = javaMain
                ? " has only a " + name + "(String[]), which is how a program starts and has no result; "
                : " has no method " + name + " of one argument that is a Map, a String or an Object; ";
        throw new LoadException(NoSuchMethodException.class, "the class " + type.getName() + what + SHAPES);
    }

    private static Takes takes(Method method) {
        if (method.getParameterCount() != 1) {
            return null;
        }
        Class<?> parameter = method.getParameterTypes()[0];
        if (parameter == Map.class) {
            return Takes.MAP;
        }
        if (parameter == String.class) {
            return Takes.STRING;
        }
        return parameter == Object.class ? Takes.OBJECT : null;
    }

    private static EntryPoint bind(Class<?> type, Method method) throws LoadException {
        try {
            method.setAccessible(true);
            Object receiver = Modifier.isStatic(method.getModifiers()) ? null : instance(type);
            return new EntryPoint(takes(method), method, receiver);
        } catch (IllegalAccessException | RuntimeException e) {
            throw new LoadException("cannot call " + type.getName() + "." + method.getName() + ": " + e.getMessage(), e);
        }
    }

    private static Object instance(Class<?> type) throws LoadException, IllegalAccessException {
        try {
            Constructor<?> constructor = type.getDeclaredConstructor();
            constructor.setAccessible(true);
            return constructor.newInstance();
        } catch (NoSuchMethodException | InstantiationException e) {
            throw new LoadException(NoSuchMethodException.class, "the class " + type.getName()
                    + " cannot be made with a constructor without arguments; add one, or make the method static");
        } catch (InvocationTargetException e) {
            throw new LoadException("the constructor of " + type.getName() + " threw " + e.getCause(), e.getCause());
        }
    }
}
